"""Descriptors that are kept for the day when the table is full.

Who cannot open a file of /proc any more would take a living orphan for gone, and
could not end what it started. So a few places are held, and given up for a moment
to whatever must not fail. Rejected: a higher limit for ourselves (there may be
none above it), /proc held open (it is one file for each process).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Our own table, and that of the whole system.
FULL: Final = frozenset({errno.EMFILE, errno.ENFILE})
# A process is signalled through a descriptor while its ancestors are read.
_COUNT: Final = 3

_held: list[int] = []


def reserve() -> None:
    """Take the places; raises OSError if they cannot be had even now."""
    while len(_held) < _COUNT:
        _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def release() -> None:
    """Give the places up for good."""
    while _held:
        os.close(_held.pop())


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """One place more, within; for us alone, since we are one thread."""
    lent = bool(_held)
    if lent:
        os.close(_held.pop())
    try:
        yield
    finally:
        if lent:
            # Lost if it was for a limit that has been lowered, or to another process.
            with contextlib.suppress(OSError):
                _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
