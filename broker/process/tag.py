"""The RLIMIT_LOCKS tag: a mark that every process inherits and a zombie keeps.

The kernel stores this limit, hands it down on fork and exec and shows it, but
has not enforced it since 2.4.25. So its value can name the activation of a
process. It is set before the process exists, by lowering our own
limit for good: each activation gets a lower value than the one before, soft
and hard alike, which needs no privilege and leaves a service nothing to raise.

Rejected: a limit set on the child after the spawn (1 % of daemons are faster),
a trampoline that sets it before exec (a second exec costs more than a whole
activation should), a soft limit alone (some daemons raise every soft limit).

A value is the top of a range that belongs to its activation, so that a broker
that is itself a service can number its own activations within that range.

Every broker counts down from a random value, but among so few that tags hardly tell
neighbouring brokers apart. Only a broker's guardian needs to tell them apart; it uses a
second mark of the same kind, RLIMIT_RSS: not enforced since 2.4.30, and a number of
bytes so large that it does not limit a program that takes it for a size (as GNU sort
does). Each broker lowers its own to a random value, once.
"""

from __future__ import annotations

import random
import re
import resource
from dataclasses import dataclass
from typing import Final

from broker.process import procfs

RLIMIT_LOCKS: Final = 10  # <asm-generic/resource.h>; the resource module has no name for it

# The width of an activation's range, by how deep a broker is nested: 2**29
# activations and more in a session, 2**20 in a broker that is a service of that one,
# 2**12 in one below.
_TOP: Final = 1 << 62  # the resource module takes no more than a signed 64-bit number
_STRIDES: Final = (1 << 32, 1 << 12, 1)
# How many first tags a session draws from. Where no other mark is left, the tags within
# ``_WINDOW`` are taken for its own: one in 4096 neighbouring sessions has one of these.
STARTS = 1 << 29
_WINDOW: Final = 1 << 16

# The same for brokers: 26 random bits tell neighbours apart, 20 those within one
# activation of another broker, 16 those nested one deeper.
_INSTANCES: Final = 1 << 63
_INSTANCE_STRIDES: Final = (1 << 36, 1 << 16, 1)

_LIMIT_LINES: Final = {
    RLIMIT_LOCKS: re.compile(rb"^Max file locks +\S+ +(\d+|unlimited)", re.MULTILINE),
    resource.RLIMIT_RSS: re.compile(rb"^Max resident set +\S+ +(\d+|unlimited)", re.MULTILINE),
}


@dataclass(frozen=True, slots=True)
class Range:
    """The values above ``low``, up to ``high``."""

    low: int
    high: int

    def __contains__(self, value: int | None) -> bool:
        return value is not None and self.low < value <= self.high


class Tagger:
    """Lowers our own limit, one activation at a time.

    Attributes:
        stride: the width of an activation's range; 0 if nothing can be tagged.
    """

    def __init__(self) -> None:
        self.stride = 0
        self._before: int | None = None
        try:
            soft, hard = resource.getrlimit(RLIMIT_LOCKS)
        except OSError:
            # A seccomp filter may forbid it.
            return
        self._before = None if hard == resource.RLIM_INFINITY else hard
        self._next = self._before or _TOP - _draw(STARTS) * _STRIDES[0]
        outer = 0
        for stride in _STRIDES:
            if hard == resource.RLIM_INFINITY or (outer and hard > 0 and hard % outer == 0):
                self.stride = stride
                break
            outer = stride
        # A nested broker must not leave the range that it was given.
        self._floor = 0 if not outer else self._next - outer
        try:
            resource.setrlimit(RLIMIT_LOCKS, (soft, hard))
        except (OSError, ValueError):
            # A seccomp filter may forbid it, whatever the values are.
            self.stride = 0

    def advance(self) -> int | None:
        """Set our limit to the next value, which new processes inherit.

        Returns:
            the value; None if there is none left.
        """
        if not self.stride or self._next - self.stride <= self._floor:
            return None
        value = self._next - self.stride
        resource.setrlimit(RLIMIT_LOCKS, (value, value))
        self._next = value
        # The last value belongs to no activation: all later spawns bear it.
        return value if value - self.stride > self._floor else None

    def never_saw(self, pid: int) -> bool:
        """Whether a process has the limit that we were started with, so is not ours."""
        return bool(self.stride) and read(pid) == self._before

    @property
    def range(self) -> Range | None:
        """The range of the next tags, with those below them."""
        if not self.stride:
            return None
        low = self._floor or self._next - self.stride * _WINDOW
        return Range(low, self._next - 1)


def draw_instance() -> Range | None:
    """Lower our RLIMIT_RSS to a value that no other broker has.

    Returns:
        it and the values of brokers nested in us; None if an administrator has set the
        limit, or the system refuses.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_RSS)
    except OSError:
        return None
    top, width = _INSTANCES, _INSTANCES >> 1
    for stride in _INSTANCE_STRIDES:
        if hard == resource.RLIM_INFINITY or (hard > _INSTANCES >> 1 and hard % width == 0):
            break
        top, width = hard, stride
    else:
        return None
    value = top - stride * (1 + _draw(width // stride - 1))
    # Programs take the soft limit for a size: a lower one stays.
    soft = value if soft == resource.RLIM_INFINITY else min(soft, value)
    try:
        resource.setrlimit(resource.RLIMIT_RSS, (soft, value))
    except (OSError, ValueError):
        return None
    return Range(value - stride, value)


def _draw(count: int) -> int:
    return random.SystemRandom().randrange(count)


def is_instance(value: int | None) -> bool:
    """Whether an RLIMIT_RSS is some broker's instance, rather than a number of bytes."""
    return value is not None and value > _INSTANCES >> 1


def read(pid: int, limit: int = RLIMIT_LOCKS) -> int | None:
    """The tag of a process, alive or a zombie; None if it has none, or has gone.

    Args:
        limit: RLIMIT_RSS to read the instance of its broker instead.
    """
    try:
        _, hard = resource.prlimit(pid, limit)
    except ProcessLookupError:
        return None
    except OSError:
        # Another user's process, and we lack CAP_SYS_RESOURCE, or a filter forbids it; the
        # file is world-readable where /proc is not mounted with hidepid.
        return _read_file(pid, limit)
    return None if hard == resource.RLIM_INFINITY else hard


def _read_file(pid: int, limit: int = RLIMIT_LOCKS) -> int | None:
    match = _LIMIT_LINES[limit].search(procfs.read(f"/proc/{pid}/limits") or b"")
    return int(match[1]) if match and match[1] != b"unlimited" else None
