"""The clocks, and a process's start on them."""

from __future__ import annotations

import time

from broker.core.clock import Instant
from broker.process.procfs import TICKS_PER_SECOND


def now() -> Instant:
    """This moment."""
    return Instant(time.time_ns() // 1000, time.monotonic_ns() // 1000)


def of_ticks(start_ticks: int) -> Instant:
    """The moment that /proc gives in clock ticks since boot, suspends included."""
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    age = max(0, boot - start_ticks * 1_000_000 // TICKS_PER_SECOND)
    at = now()
    return Instant(at.realtime - age, at.monotonic - age)
