"""Which orphans of a service are its helpers: those that it can still talk to.

A pipe and a pair of sockets have two ends. A process *stands* at an end if it holds that
one and not the other. An orphan is a helper if it holds an end whose other end is held by a
process that may stay, and

- no process that may stay holds the orphan's end as well, or
- the orphan stands at its end, and no process that may stay does.

That is what tells a helper from a leak: who was forked carelessly has inherited the
service's own ends, such as its output, its connection to the bus or its side of a talk with
somebody else, and both ends of what wakes a main loop. A helper and a service that talk to
each other may hold too much, but not both of them: then nobody can tell.

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
    """Those of the orphans that hold a conversation with one that stays.

    Args:
        orphans, staying: what each of them holds, by PID.
        other: the other end; None where it is gone, or not known.
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
