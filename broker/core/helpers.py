"""Tells a service's helpers from its leaks: a helper is an orphan that it can still talk to.

A pipe and a pair of sockets have two ends. A process *stands* at an end if it holds that
end and not the other. An orphan is a helper if it holds an end, a process that may stay
holds the other end, and

- no process that may stay holds the orphan's end as well, or
- the orphan stands at its end, and no process that may stay does.

This tells a helper from a leak, because a carelessly forked process has inherited the
service's own ends, such as its output, its connection to the bus or its side of another
conversation, and both ends of the pipe that wakes its main loop. Of a helper and its
service, one may hold too many ends, but not both: then the two cases look the same.

Rejected: any pipe in common (a leak shares its service's output), descent and sessions (a
helper daemonizes as a leak does), a list of programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet


class End(NamedTuple):
    """One end of a pipe (``kind`` is read or write), or of a connection (socket).

    Attributes:
        inode: of a pipe, the same at both ends.
    """

    kind: str
    inode: int


def helpers(
    orphans: Mapping[int, AbstractSet[End]],
    staying: Mapping[int, AbstractSet[End]],
    other: Callable[[End], End | None],
) -> set[int]:
    """The orphans that are connected to a process that stays.

    Args:
        orphans, staying: the ends that each process holds, by PID.
        other: returns the other end; None if it is closed or unknown.
    """
    held = {end for ends in staying.values() for end in ends}
    stood_at = {end for ends in staying.values() for end in ends if other(end) not in ends}
    return {
        pid
        for pid, ends in orphans.items()
        if any(
            (far := other(end)) in held
            and (end not in held or (far not in ends and end not in stood_at))
            for end in ends
        )
    }
