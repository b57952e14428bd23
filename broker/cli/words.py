"""Times and sizes in human-readable form."""

from __future__ import annotations

import time
from typing import Final

_USEC: Final = 1_000_000
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def long_span(usec: int) -> str:
    """A duration in its two largest units, such as ``2min 5s``."""
    seconds = max(usec, 0) // _USEC
    words: list[str] = []
    for unit, size in _UNITS:
        if seconds >= size or (unit == "s" and not words):
            words.append(f"{seconds // size}{unit}")
            seconds %= size
        elif words:
            break
    return " ".join(words[:2])


def span(usec: int) -> str:
    """A duration to the millisecond, such as ``11ms`` or ``1.204s``."""
    if usec < 1000:
        return f"{usec}us"
    if usec < _USEC:
        return f"{usec // 1000}ms"
    if usec < 60 * _USEC:
        return f"{usec / _USEC:.3f}s"
    return long_span(usec)


def ago(realtime: int) -> str:
    """The time since a moment in microseconds of CLOCK_REALTIME; "-" for never."""
    if not realtime:
        return "-"
    return f"{long_span(time.time_ns() // 1000 - realtime)} ago"


def moment(realtime: int) -> str:
    """A time of day, with the date if it is not today's."""
    at = time.localtime(realtime / _USEC)
    now = time.localtime()
    same_day = (at.tm_year, at.tm_yday) == (now.tm_year, now.tm_yday)
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", at)


def size(octets: int) -> str:
    """An amount of memory, such as ``5.2M``."""
    amount = float(octets)
    for unit in "BKMG":
        if amount < 1024:
            return f"{amount:.1f}{unit}" if unit != "B" else f"{octets}B"
        amount /= 1024
    return f"{amount:.1f}T"
