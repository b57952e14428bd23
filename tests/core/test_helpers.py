"""Which orphans are helpers, by their descriptors and those of the processes that stay."""

from __future__ import annotations

import pytest

from broker.core.helpers import End, helpers

READ, WRITE = End("read", 1), End("write", 1)
OURS, ITS = End("socket", 2), End("socket", 3)
FAR = {READ: WRITE, WRITE: READ, OURS: ITS, ITS: OURS}
ORPHAN, MAIN, OTHER = 10, 20, 30


@pytest.mark.parametrize("ends", [(READ, WRITE), (WRITE, READ), (OURS, ITS)])
def test_the_only_holder_of_the_other_end_is_a_helper(ends: tuple[End, End]) -> None:
    mine, far = ends
    assert helpers({ORPHAN: {mine}}, {MAIN: {far}}, FAR.get) == {ORPHAN}
    # One that stays may have kept both.
    assert helpers({ORPHAN: {mine}}, {MAIN: {mine, far}}, FAR.get) == {ORPHAN}
    assert helpers({ORPHAN: {mine}}, {MAIN: {far}, OTHER: {mine, far}}, FAR.get) == {ORPHAN}
    # Or the orphan.
    assert helpers({ORPHAN: {mine, far}}, {MAIN: {far}}, FAR.get) == {ORPHAN}


@pytest.mark.parametrize("ends", [(READ, WRITE), (WRITE, READ), (OURS, ITS)])
def test_a_holder_of_the_same_end_as_one_that_stays_is_no_helper(ends: tuple[End, End]) -> None:
    mine, far = ends
    assert helpers({ORPHAN: {mine}}, {MAIN: {mine}}, FAR.get) == set()
    assert helpers({ORPHAN: {mine}}, {MAIN: {far}, OTHER: {mine}}, FAR.get) == set()
    assert helpers({ORPHAN: {mine, far}}, {MAIN: {far}, OTHER: {mine}}, FAR.get) == set()
    assert helpers({ORPHAN: {mine, far}}, {MAIN: {mine, far}}, FAR.get) == set()


def test_orphans_do_not_vouch_for_each_other() -> None:
    assert helpers({ORPHAN: {OURS}, OTHER: {ITS}}, {MAIN: {READ}}, FAR.get) == set()


def test_an_end_without_another_is_nothing() -> None:
    assert helpers({ORPHAN: {OURS}}, {MAIN: {ITS}}, lambda _: None) == set()
