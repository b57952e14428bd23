"""inotify(7): the kernel reports changes in directories.

Three system calls by ctypes. Rejected: asyncinotify, whose import takes longer than the
start of a bus (136 ms), and which hands events to a coroutine: we also need them
at once, in the middle of a turn of the loop (``EventQueue.read``).
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

# <linux/inotify.h>
MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8
_MOVED: Final = 0xC0  # from, to
CREATE: Final = 0x100
_DELETE: Final = 0x200
# Events of the directory itself: deleted, moved; unmounted; no longer watched.
GONE: Final = 0x400 | 0x800 | 0x2000 | 0x8000
OVERFLOW: Final = 0x4000
_ONLYDIR: Final = 0x0100_0000
_MASK_ADD: Final = 0x2000_0000
_SELF: Final = 0x400 | 0x800 | _ONLYDIR | _MASK_ADD

# Events by which a path leads elsewhere, and events that change files.
ENTRIES: Final = CREATE | _DELETE | _MOVED | _SELF
FILES: Final = ENTRIES | MODIFY | _CLOSE_WRITE | _ATTRIB

# struct inotify_event, before its name: wd, mask, cookie, len.
_HEADER: Final = struct.Struct("=iIII")
_BYTES: Final = 1 << 16
# The kernel's queue has 16384 events, mostly of 32 bytes: one read may take all of it.
_READS: Final = 16

_libc = ctypes.CDLL(None, use_errno=True)


class Change(NamedTuple):
    """An event: ``watch`` is -1 if it concerns all, ``name`` is empty for the directory itself."""

    watch: int
    mask: int
    name: bytes


class EventQueue:
    """The kernel's queue of changes.

    Attributes:
        fd: to wait on; not blocking.

    Raises:
        OSError: too many queues of this user (fs.inotify.max_user_instances), or a full table.
    """

    def __init__(self) -> None:
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error()

    def add(self, directory: bytes, mask: int) -> int:
        """Watch a directory, for these changes too; all paths to one directory share a number.

        Raises:
            OSError: it cannot be watched; ENOSPC: too many watches of this user (max_user_watches).
        """
        watch: int = _libc.inotify_add_watch(self.fd, directory, ctypes.c_uint32(mask))
        if watch < 0:
            raise _error()
        return watch

    def remove(self, watch: int) -> None:
        """Remove a watch, which the kernel may have removed already."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Change]:
        """All changes before this call, or an ``OVERFLOW``."""
        found: list[Change] = []
        for _ in range(_READS):
            try:
                data = os.read(self.fd, _BYTES)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size
                found.append(Change(watch, mask, data[at : at + length].rstrip(b"\0")))
                at += length
        found.append(Change(-1, OVERFLOW, b""))
        return found

    def close(self) -> None:
        """Close the queue, which takes the kernel 8 ms if watches were just removed."""
        os.close(self.fd)


def _error() -> OSError:
    error = ctypes.get_errno()
    return OSError(error, os.strerror(error))
