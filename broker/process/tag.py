"""The RLIMIT_LOCKS tag: a mark that every process inherits and a zombie keeps.

The kernel stores this limit, hands it down on fork and exec and shows it, but
has not enforced it since 2.4.25. So its value is free to say which activation
a process came from. It is set before the process exists, by lowering our own
limit for good: each activation gets a lower value than the one before, soft
and hard alike, which needs no privilege and leaves a service nothing to raise.

Rejected: a limit set on the child after the spawn (1 % of daemons are faster),
a trampoline that sets it before exec (a second exec costs more than a whole
activation should), a soft limit alone (some daemons raise every soft limit).

A value is the top of a range that belongs to its activation, so that a broker
which runs as somebody's service can number its own activations within it.
"""

from __future__ import annotations

import re
import resource
from typing import Final

from broker.process import procfs

RLIMIT_LOCKS: Final = 10  # <asm-generic/resource.h>; the resource module has no name for it

# The width of an activation's range, by how deep a broker is nested: 2**30
# activations in a session, 2**20 in a broker that is a service of that one,
# 2**12 in one below.
_TOP: Final = 1 << 62  # the resource module takes no more than a signed 64-bit number
_STRIDES: Final = (1 << 32, 1 << 12, 1)

_LIMIT_LINE: Final = re.compile(rb"^Max file locks +\S+ +(\d+|unlimited)", re.MULTILINE)


class Tagger:
    """Lowers our own limit, one activation at a time.

    Attributes:
        stride: the width of an activation's range; 0 if nothing can be tagged.
    """

    def __init__(self) -> None:
        soft, hard = resource.getrlimit(RLIMIT_LOCKS)
        self._next = _TOP if hard == resource.RLIM_INFINITY else hard
        outer = 0
        self.stride = 0
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
        """Set our limit to the next value, which what is spawned now inherits.

        Returns:
            the value; None if there is none left.
        """
        if not self.stride or self._next - self.stride <= self._floor:
            return None
        value = self._next - self.stride
        resource.setrlimit(RLIMIT_LOCKS, (value, value))
        self._next = value
        # The last value is nobody's: whatever is spawned from then on bears it.
        return value if value - self.stride > self._floor else None


def read(pid: int) -> int | None:
    """The tag of a process, alive or a zombie; None if it has none, or has gone."""
    try:
        _, hard = resource.prlimit(pid, RLIMIT_LOCKS)
    except ProcessLookupError:
        return None
    except PermissionError:
        # Another user's process, and we lack CAP_SYS_RESOURCE; the file is
        # world-readable where /proc is not mounted with hidepid.
        return _read_file(pid)
    return None if hard == resource.RLIM_INFINITY else hard


def _read_file(pid: int) -> int | None:
    match = _LIMIT_LINE.search(procfs.read(f"/proc/{pid}/limits") or b"")
    return int(match[1]) if match and match[1] != b"unlimited" else None
