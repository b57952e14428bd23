"""The start limit closes after enough failures, all of them within the interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from broker.core.start_limit import StartLimit

if TYPE_CHECKING:
    from collections.abc import Sequence

# Failures, as the clock gives them: never backwards.
TIMES = st.lists(st.integers(0, 60)).map(sorted)


def limit_after(*failures: int, burst: int = 3, interval: int = 10) -> StartLimit:
    limit = StartLimit(burst, interval)
    for at in failures:
        limit.failed(at)
    return limit


def test_new_gate_is_open() -> None:
    assert not limit_after().hit(0)


def test_gate_closes_with_the_last_failure_of_the_burst() -> None:
    assert not limit_after(0, 1).hit(1)
    assert limit_after(0, 1, 2).hit(2)


def test_gate_opens_when_the_oldest_failure_is_as_old_as_the_interval() -> None:
    limit = limit_after(0, 1, 2)
    assert limit.hit(9)
    assert not limit.hit(10)


def test_asking_does_not_count() -> None:
    limit = limit_after(0, 1)
    for _ in range(10):
        assert not limit.hit(2)


def test_gate_closes_again_with_one_more_failure() -> None:
    limit = limit_after(0, 5, 6)
    assert not limit.hit(10)
    limit.failed(11)
    assert limit.hit(11)
    assert not limit.hit(15)


def test_failures_that_are_far_apart_never_close_it() -> None:
    limit = limit_after()
    for at in range(0, 100, 5):
        limit.failed(at)
        assert not limit.hit(at)


def test_burst_of_0_never_closes_it() -> None:
    assert not limit_after(0, 0, 0, 0, burst=0).hit(0)


def test_burst_of_1_closes_it_with_the_first_failure() -> None:
    limit = limit_after(3, burst=1)
    assert limit.hit(12)
    assert not limit.hit(13)


def test_reset_forgets_every_failure() -> None:
    limit = limit_after(0, 0, 0)
    limit.reset()
    assert not limit.hit(0)
    limit.failed(0)
    limit.failed(0)
    assert not limit.hit(0)
    limit.failed(0)
    assert limit.hit(0)


@given(TIMES, st.integers(0, 5), st.integers(1, 20), st.integers(0, 20))
def test_gate_is_closed_when_the_burst_lies_within_the_interval(
    failures: Sequence[int], burst: int, interval: int, later: int
) -> None:
    now = max(failures, default=0) + later
    recent = [at for at in failures if at > now - interval]
    limit = limit_after(*failures, burst=burst, interval=interval)
    assert limit.hit(now) == (0 < burst <= len(recent))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_asking_in_between_changes_nothing(steps: Sequence[tuple[int, bool]]) -> None:
    asked, quiet = limit_after(), limit_after()
    now = 0
    for passed, fails in steps:
        now += passed
        asked.hit(now)
        if fails:
            asked.failed(now)
            quiet.failed(now)
    assert asked.hit(now) == quiet.hit(now)
