"""Captured output: what it is to the service, and what it costs the broker."""

from __future__ import annotations

import pytest

from broker.process.capture import PER_TURN
from tests.process.harness import run
from tests.process.scenarios import capturing


def test_a_service_can_open_its_streams_and_they_block() -> None:
    assert run(capturing.streams) == {
        "opened": [["stdout", "1"], ["stderr", "2"]],
        "blocking": [True, True],
    }


def test_the_stream_that_was_first_is_read_first() -> None:
    one = [["stdout", "1"], ["stdout", "3"], ["stderr", "2"]]
    other = [["stderr", "1"], ["stderr", "3"], ["stdout", "2"]]
    assert run(capturing.orders) == [one, one, other, other]


@pytest.mark.parametrize("count", [1, 20])
def test_a_flood_is_read_in_turns_and_nobody_waits_for_ever(count: int) -> None:
    found = run(capturing.floods, count)
    assert found["quiet"] == [["stdout", "hello"]]
    # Of two bytes each; the last read of a turn may go over.
    assert found["largest"] <= 2 * PER_TURN // 2


def test_a_log_is_drained_behind_a_thousand_others() -> None:
    assert run(capturing.many, 800) == [["stderr", "800"]]


def test_no_descriptor_is_lost_nor_left() -> None:
    found = run(capturing.descriptors)
    assert found["lines"] == [["stdout", "1"], ["stderr", "2"], ["stdout", "enough"]]
    # Two for each pipe at once, then one of ours and one to be given away; and what
    # the copies for the child take.
    assert 4 < found["enough"] < 10
    assert {tuple(each[:2]) for each in found["reasons"]} == {("LimitsExceeded", "resources")}
    texts = {each[2] for each in found["reasons"]}
    assert f"Failed to make a pipe for the output of {capturing.NAME}: Too many open files" in texts
    assert all(text.endswith(": Too many open files") for text in texts)


def test_a_survivor_of_a_killed_broker_can_go_on_writing() -> None:
    assert run(capturing.killed_broker) == ["ready\nalive\n", 0]
