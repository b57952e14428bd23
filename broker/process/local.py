"""Tells whether files are local: access to them waits at most for a disk of this machine.

A file system behind a server, FUSE's or a network's, may never answer. A process that
looks up a path there sleeps in the kernel, on some file systems immune even to SIGKILL,
and the broker would sleep with all its duties.

So a path is first looked up in the kernel's cache alone: openat2 with RESOLVE_CACHED
(Linux 5.12) never waits. Being in the cache is not enough, since the next operation on the
file may wait, so its mount must be of a known local type. An entry that is not cached is
read from the disk if its directory is local. Rejected: a list of types that are not local
(an unknown type costs some 2 ms with our list, and the session with that one); statfs (it
asks the server); a look-up in a thread (it cannot be ended either, nor then the process).

Not seen: a local file system on top of another one (an overlay on NFS, a loop device),
and a local disk that does not answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.process import spare
from broker.process.mounts import Mounts

if TYPE_CHECKING:
    from collections.abc import Callable

# <linux/openat2.h>; a system call this new has one number on all current architectures.
_OPENAT2: Final = 437
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
# <linux/stat.h>; DONT_SYNC: "Don't synchronize …, but rather just take whatever the
# system has cached if possible", so that no server is asked.
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BASIC_AND_MOUNT: Final = 0x17FF
_STATX_BYTES: Final = 256
# stx_mode; stx_ino and stx_size; stx_ctime; stx_mnt_id.
_STATX: Final = struct.Struct("=28x H 2x 16s 48x 12s 36x Q")
# The errors of a path that leads to no file.
_NOWHERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG}
# As many links as the kernel follows in a path, and interpreters of interpreters (execve(2)).
_MAX_LINKS: Final = 40
_MAX_INTERPRETERS: Final = 5
# How much of a program to read: more than the kernel reads of a script's first line, and
# mostly all that we need of an ELF file.
_HEAD_BYTES: Final = 4096
# How many programs are remembered before all are forgotten.
_MAX_KNOWN: Final = 4096
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc["syscall"]  # our own, as the types of its arguments are
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
]
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_CACHED: Final = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
_CACHED_AT: Final = ctypes.byref(_CACHED)
_CACHED_BYTES: Final = ctypes.sizeof(_CACHED)


class _Status(NamedTuple):
    """The identity of a file and its contents: it differs for another or a changed file."""

    mode: int
    inode_and_size: bytes
    changed: bytes
    mount: int


_mounts: Final = Mounts()
# Programs that were local with all their interpreters, since the mounts last changed: to
# read them again would be half the cost of a look. (Not noticed: an interpreter alone is
# replaced by a link to another place.)
_known: Final[dict[bytes, _Status]] = {}
_buffer: Final = ctypes.create_string_buffer(_STATX_BYTES)


class _Place(enum.Enum):
    """The place that a path leads to."""

    HERE = enum.auto()  # a file on a disk of this machine
    NOWHERE = enum.auto()  # no usable file: an attempt is refused at once
    AWAY = enum.auto()  # unknown without waiting


# -- the interface ---------------------------------------------------------------


def begin() -> None:
    """Take the one descriptor that all look-ups need; raises OSError if none is left."""
    # If the file may not be read, nothing is known of any path.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _mounts.update()


def end() -> None:
    """Close that descriptor until the next look-up."""
    _mounts.close()


def holds(path: str) -> bool:
    """Whether a path can be followed without waiting for a server; it may lead nowhere."""
    return _with_room(lambda: _holds(path))


def holds_all_in(directory: str) -> bool:
    """Whether the same holds for a directory and all files in it."""
    return _with_room(lambda: _holds_all_in(directory))


def executes(path: str) -> bool:
    """Whether the kernel can execute, or refuse, a program without waiting for a server.

    A script, and a program with shared libraries, has an interpreter that the kernel opens
    as well.
    """
    return _with_room(lambda: _executes(path))


def _with_room(look: Callable[[], bool]) -> bool:
    try:
        _update()
        return look()
    except OSError as e:
        if e.errno not in spare.FULL:
            return False
    except UnicodeEncodeError:
        return True  # not a valid path: refused before the kernel sees it
    try:
        with spare.borrowed(), spare.borrowed():
            _update()
            return look()
    except OSError:
        return False


def _update() -> None:
    if _mounts.update():
        _known.clear()


# -- paths -----------------------------------------------------------------------


def _holds(path: str) -> bool:
    found = _look(os.fsencode(path))
    if isinstance(found, _Place):
        return found is _Place.NOWHERE
    try:
        return _status(found) is not None
    finally:
        os.close(found)


def _holds_all_in(directory: str) -> bool:
    found = _look(os.fsencode(directory))
    if isinstance(found, _Place):
        return found is _Place.NOWHERE
    try:
        if _status(found) is None or _mounts.away_below(os.readlink(f"/proc/self/fd/{found}")):
            return False
    finally:
        os.close(found)
    try:
        with os.scandir(directory) as files:
            return all(_holds(file.path) for file in files if file.is_symlink())
    except (NotADirectoryError, PermissionError):
        return True


def _look(path: bytes, links: int = _MAX_LINKS) -> int | _Place:
    """A descriptor of the path alone (O_PATH); it may be on any mount if it was cached."""
    if b"\0" in path:
        return _Place.NOWHERE
    found = _open_cached(path)
    if found is not _Place.AWAY:
        return found
    # Not in the cache. If its directory is local, then the entry is read from the disk,
    # and only a link's target needs another look-up. (A mount point is always in the
    # cache.)
    directory, name = os.path.split(path)
    if name in (b"", b".", b".."):
        return _Place.AWAY
    parent = _look(directory or b".", links)
    if isinstance(parent, _Place):
        return parent
    try:
        if _status(parent) is None:
            return _Place.AWAY
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as e:
        if e.errno in _NOWHERE:
            return _Place.NOWHERE
        raise
    finally:
        os.close(parent)
    status = _status(found)
    if status is None or not stat.S_ISLNK(status.mode):
        return found
    try:
        target = os.readlink(b"", dir_fd=found)
    finally:
        os.close(found)
    return _look(os.path.join(directory, target), links - 1) if links else _Place.NOWHERE


def _open_cached(path: bytes) -> int | _Place:
    found: int = _syscall(_OPENAT2, _AT_FDCWD, path, _CACHED_AT, _CACHED_BYTES)
    if found >= 0:
        return found
    error = ctypes.get_errno()
    if error in spare.FULL:
        raise OSError(error, os.strerror(error))
    # EAGAIN: it is not cached. ENOSYS, EINVAL, EPERM: an older kernel or a filter of
    # system calls; then nothing is known of any path.
    return _Place.NOWHERE if error in _NOWHERE else _Place.AWAY


def _status(fd: int) -> _Status | None:
    """The status of a descriptor's file; None if that is not local."""
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(fd, b"", flags, _STATX_BASIC_AND_MOUNT, _buffer) != 0:
        return None
    status = _Status(*_STATX.unpack_from(_buffer))
    return status if status.mount in _mounts.local else None


# -- programs --------------------------------------------------------------------


def _executes(path: str) -> bool:
    return _program(os.fsencode(path), _MAX_INTERPRETERS) is not _Place.AWAY


def _program(path: bytes, depth: int) -> _Place:
    found = _look(path)
    if isinstance(found, _Place):
        return found
    try:
        status = _status(found)
        if status is None:
            return _Place.AWAY
        if _known.get(path) == status:
            return _Place.HERE
        if not stat.S_ISREG(status.mode) or not status.mode & 0o111:
            return _Place.NOWHERE
        interpreter = _interpreter(found)
    finally:
        os.close(found)
    place = _program(interpreter, depth - 1) if interpreter and depth else _Place.HERE
    if place is _Place.HERE:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[path] = status
    return place


def _interpreter(fd: int) -> bytes:
    """The interpreter that the kernel opens for a program; empty for none.

    Raises:
        OSError: the program may not be read, though perhaps be executed.
    """
    file = os.open(f"/proc/self/fd/{fd}", _READ)
    try:
        head = os.pread(file, _HEAD_BYTES, 0)
        if head.startswith(b"#!"):
            words = head[2:].partition(b"\n")[0].split(None, 1)
            return words[0] if words else b""
        return _elf_interpreter(file, head) if head.startswith(b"\x7fELF") else b""
    finally:
        os.close(file)


def _elf_interpreter(file: int, head: bytes) -> bytes:
    """The text of PT_INTERP (elf(5)); empty for a truncated file."""

    def part(size: int, offset: int) -> bytes:
        end = offset + size
        return head[offset:end] if end <= len(head) else os.pread(file, size, offset)

    order = "<" if head[5:6] == b"\1" else ">"
    # The table's offset, its entries' size and number; and an entry's type, and its text's
    # offset and length in the file. ELFCLASS64, and ELFCLASS32.
    if head[4:5] == b"\2":
        header, entry = f"{order}32xQ14xHH", f"{order}I4xQ16xQ"
    else:
        header, entry = f"{order}28xI10xHH", f"{order}II8xI"
    try:
        start, size, count = struct.unpack_from(header, head)
        table = part(size * count, start)
        for at in range(0, size * count, size or 1):
            kind, offset, length = struct.unpack_from(entry, table, at)
            if kind == 3:  # PT_INTERP
                return part(min(length, _HEAD_BYTES), offset).partition(b"\0")[0]
    except (struct.error, ValueError, OverflowError):
        pass
    return b""
