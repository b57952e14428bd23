"""Spare descriptors, kept for EMFILE.

If the broker cannot open a file of /proc any more, it takes a living orphan for dead,
and cannot end its processes. So it reserves a few places in the table, and lends them
for a moment to operations that must not fail. Rejected: a higher limit for ourselves
(ours may be the highest already), /proc held open (it is one file for each process).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Our own table is full, or that of the whole system.
FULL: Final = frozenset({errno.EMFILE, errno.ENFILE})
# A signal needs a pidfd and, at the same time, a descriptor to read ancestors.
_COUNT: Final = 3

_held: list[int] = []


def reserve() -> None:
    """Take the places; raises OSError if even now none are free."""
    while len(_held) < _COUNT:
        _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def release() -> None:
    """Give the places up for good."""
    while _held:
        os.close(_held.pop())


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """One more place for the context; for us alone, since we are one thread."""
    lent = bool(_held)
    if lent:
        os.close(_held.pop())
    try:
        yield
    finally:
        if lent:
            # Lost, to a lowered limit or to another process.
            with contextlib.suppress(OSError):
                _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
