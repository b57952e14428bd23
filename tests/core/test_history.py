"""A service's newest activations: what is remembered of each, and of how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from broker.core.clock import NEVER
from broker.core.events import Timer
from broker.core.exits import Result
from broker.core.history import KEPT
from tests.core.stage import (
    ALL_GONE,
    EXIT_3,
    FIRST,
    KILL,
    LOST,
    NOBODY,
    STOP,
    TAKEN_BY_FOREIGN,
    TERM,
    Play,
    born,
    ended,
    fires,
    refused,
    served,
    spawned,
    took,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.core.clock import Instant
    from broker.core.events import Event

STOPPED: Final = [STOP, ended(10, TERM), ALL_GONE, LOST]


def seconds(at: Instant) -> int | None:
    """Since the stage was opened: events are a second apart."""
    return None if at is NEVER else at.realtime // 1_000_000 - 1000


def test_a_service_that_is_started_three_times_has_three_activations() -> None:
    play = Play(FIRST, spawned(), took(), *STOPPED)
    play.do(FIRST, spawned(11), ended(11, EXIT_3), ALL_GONE, NOBODY, NOBODY)
    play.do(FIRST, spawned(12), took(12))
    found = [
        (each.number, each.pid, each.result, *map(seconds, (each.requested, each.owned)))
        for each in play.service.history
    ]
    assert found == [
        (1, 10, Result.SUCCESS, 1, 3),
        (2, 11, Result.EXIT_CODE, 8, None),
        (3, 12, Result.SUCCESS, 14, 16),
    ]
    assert [seconds(each.ended) for each in play.service.history] == [6, 13, None]
    assert [each.started for each in play.service.history] == [born(10), born(11), born(12)]


@pytest.mark.parametrize(
    ("events", "owned", "end", "result"),
    [
        ([FIRST, refused()], None, 2, Result.EXEC_FAILED),
        # Not with the end of what it leaves.
        ([FIRST, spawned(), fires(Timer.ACTIVATION), ended(10, TERM)], None, 3, Result.TIMEOUT),
        ([FIRST, spawned(), *STOPPED[:2]], None, 3, Result.SUCCESS),
        ([FIRST, spawned(), took(), LOST], 3, None, Result.SUCCESS),
        ([FIRST, spawned(), took(), ended(10, KILL), ALL_GONE, LOST], 3, 6, Result.SIGNAL),
        ([FIRST, spawned(), took(), LOST, ended(10, KILL), ALL_GONE], 3, 6, Result.SIGNAL),
        # From then on it is somebody else's.
        ([FIRST, spawned(), *served(TAKEN_BY_FOREIGN), LOST], 4, 4, Result.SUCCESS),
        ([FIRST, spawned(), took(), TAKEN_BY_FOREIGN, LOST], 3, 4, Result.SUCCESS),
    ],
)
def test_when_an_activation_is_over(
    events: Sequence[Event], owned: int | None, end: int | None, result: Result
) -> None:
    (found,) = Play(*events).service.history
    assert (seconds(found.owned), seconds(found.ended)) == (owned, end)
    assert found.result is result


def test_the_next_start_ends_the_one_before() -> None:
    """One is asked for while the service is being ended, one while something lingers."""
    play = Play(FIRST, spawned(), took(), STOP, FIRST, ended(10, TERM), ALL_GONE)
    play.do(spawned(11), took(11), LOST, FIRST)
    assert [seconds(each.ended) for each in play.service.history] == [7, 11, None]


def test_a_name_that_is_served_by_others_has_no_activation() -> None:
    assert [*Play(TAKEN_BY_FOREIGN, LOST).service.history] == []


def test_one_that_is_started_for_ever_is_remembered_for_a_while() -> None:
    play = Play()
    for _ in range(KEPT + 5):
        play.do(FIRST, spawned(), took(), *STOPPED)
    numbers = [each.number for each in play.service.history]
    assert numbers == list(range(6, KEPT + 6))
