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


# How often two clocks are read one after the other, and by how much an interrupt may make
# them seem to have moved, in microseconds.
_LOOKS: Final = 3
_NOISE: Final = 1000
# A process that is not of our starts may have begun at any time, except at 0, which means
# never, and before the monotonic clock began, as it seems after a suspend.
ANY_TIME: Final = Beginning(Instant(1, 1), 0)


def now() -> Instant:
    """This moment."""
    return Instant(time.time_ns() // 1000, time.monotonic_ns() // 1000)


def beginning() -> Beginning:
    """This moment, for the starts that come after it."""
    return Beginning(now(), _boot_usec() * TICKS_PER_SECOND // 1_000_000)


def of_ticks(start_ticks: int, after: Beginning = ANY_TIME) -> Instant:
    """The moment that /proc gives in clock ticks since boot, suspends included.

    The kernel rounds down to a tick, 10 ms mostly: a service's immediate fork would seem to
    be older than the service. So a process never starts earlier than its service, unless the
    kernel's ticks say so: a process that was only moved into a cgroup may be older.
    (Compared in the kernel's own ticks: CLOCK_MONOTONIC stands still in a suspend.)

    Args:
        after: our start from which the process descends.
    """
    boot, at = _origin.find(), now()
    since = start_ticks * 1_000_000 // TICKS_PER_SECOND
    found = Instant(
        min(boot.realtime + since, at.realtime), min(boot.monotonic + since, at.monotonic)
    )
    earliest = after.at if start_ticks >= after.ticks else ANY_TIME.at
    return Instant(max(found.realtime, earliest.realtime), max(found.monotonic, earliest.monotonic))


class _Origin:
    """The moment of the boot on our clocks, from which ticks count.

    It must be the same each time: otherwise the duration of our look-ups would put the
    processes of one tick into an order. It moves with a clock that is set, and with a suspend.
    """

    def __init__(self) -> None:
        self._known = NEVER

    def find(self) -> Instant:
        looks = [(_boot_usec(), now()) for _ in range(_LOOKS)]
        # An interrupt between the two clocks has only made the second later.
        found = Instant(
            min(at.realtime - boot for boot, at in looks),
            min(at.monotonic - boot for boot, at in looks),
        )
        moved = max(
            abs(found.realtime - self._known.realtime), abs(found.monotonic - self._known.monotonic)
        )
        if moved > _NOISE:
            self._known = found
        return self._known


def _boot_usec() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


_origin: Final = _Origin()
