"""Tables on terminals of every width, and in pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from broker.cli import output
from broker.errors import OutputRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADINGS = ("NAME", "PID", "SINCE")
ROWS = [("org.example.Calculator", "4080", "2s ago"), ("org.example.Idle", "-", "-")]


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[None]:
    """Standard output is a terminal of this width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with open(theirs, "w", encoding="utf-8") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        yield
    os.close(ours)


def lines(**options: bool) -> list[str]:
    return list(output.table(HEADINGS, ROWS, legend=options.get("legend", True), right=(1,)))


def test_nothing_is_cut_in_a_pipe() -> None:
    assert output.width() is None
    assert lines() == [
        "NAME                     PID  SINCE",
        "org.example.Calculator  4080  2s ago",
        "org.example.Idle           -  -",
    ]
    assert lines(legend=False)[0].startswith("org.example.Calculator")
    assert output.paint("x", "red") == "x"


@pytest.mark.parametrize("columns", [*range(1, 41), 80, 200])
def test_every_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(monkeypatch, columns):
        monkeypatch.setenv("NO_COLOR", "1")
        assert output.width() == columns
        found = lines()
    assert all(len(line) <= columns for line in found)
    assert len(found) == 3
    if columns >= 24:
        # The name gives way first.
        assert found[1].endswith("4080  2s ago")


def test_a_width_of_zero_is_none_that_anybody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 0):
        assert output.width() == 80
        monkeypatch.setenv("COLUMNS", "40")
        assert output.width() == 40


def test_colours_are_for_terminals_and_those_who_want_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch, 80):
        assert output.paint("x", "red") == "\033[31mx\033[0m"
        assert output.paint("x", "") == "x"
        monkeypatch.setenv("NO_COLOR", "1")
        assert output.paint("x", "red") == "x"


def test_an_empty_table() -> None:
    assert list(output.table(HEADINGS, [], legend=True)) == ["NAME  PID  SINCE"]
    assert list(output.table(HEADINGS, [], legend=False)) == []


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EPIPE, SystemExit), (errno.ENOSPC, OutputRefused)]
)
def test_what_a_refused_write_ends_with(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    with open(os.devnull, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        found = output.refused(OSError(number, os.strerror(number)))
    assert isinstance(found, kind)
    if isinstance(found, SystemExit):
        assert found.code == 141
    else:
        assert "No space left" in str(found)
