"""The clocks, and a process's start on them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from broker.core.clock import NEVER, Instant
from broker.process.procfs import TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Beginning:
    """A moment before a start of ours, as we and as the kernel measure it.

    Attributes:
        ticks: clock ticks since boot, suspends included, as in /proc/PID/stat.
    """

    at: Instant
    ticks: int


# What is not of a start of ours may have begun at any time.
ANY_TIME: Final = Beginning(NEVER, 0)


def now() -> Instant:
    """This moment."""
    return Instant(time.time_ns() // 1000, time.monotonic_ns() // 1000)


def beginning() -> Beginning:
    """This moment, for the starts that come after it."""
    return Beginning(now(), _boot_usec() * TICKS_PER_SECOND // 1_000_000)


def of_ticks(start_ticks: int, after: Beginning = ANY_TIME) -> Instant:
    """The moment that /proc gives in clock ticks since boot, suspends included.

    The kernel rounds down to a tick, 10 ms mostly: what a service forks at once would seem
    to be older than the service. So a start is never earlier than the one that it comes
    from; unless the kernel says so, to which a process that was only put into a cgroup is
    older. (Compared in the kernel's own ticks: CLOCK_MONOTONIC stands still in a suspend.)

    Args:
        after: the start of ours that the process comes from.
    """
    age = max(0, _boot_usec() - start_ticks * 1_000_000 // TICKS_PER_SECOND)
    at = now()
    found = Instant(at.realtime - age, at.monotonic - age)
    if start_ticks < after.ticks:
        return found
    return Instant(max(found.realtime, after.at.realtime), max(found.monotonic, after.at.monotonic))


def _boot_usec() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
