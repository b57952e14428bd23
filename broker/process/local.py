"""Whether files can be looked at without waiting for anybody but a disk of this machine.

A file system behind a server, FUSE's or a network's, may never answer. Whoever looks a
path up there sleeps in the kernel, some of them so that not even SIGKILL ends it, and
the broker would sleep with all that it is responsible for.

So a path is looked up in the kernel's cache alone first: openat2 with RESOLVE_CACHED
(Linux 5.12) never waits. Being in the cache is not enough, since what is done with the
file next may wait, so its mount must be of a type that is known to be local. What is
not in the cache is read from the disk where its directory is local. Rejected: a list of
types that are not local (an unknown one costs some 2 ms here, and the session there);
statfs (it asks the server); a thread that looks (it cannot be ended either, nor can the
process then).

Not seen: a local file system that is made of another (an overlay on NFS, a loop device),
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

# <linux/openat2.h>; the number is the same on all machines that are younger than it.
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
# What a path that leads to no file is refused with.
_NOWHERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG}
# As many links as the kernel follows in a path, and interpreters of interpreters (execve(2)).
_MAX_LINKS: Final = 40
_MAX_INTERPRETERS: Final = 5
# Of a program: more than the kernel reads of a script's first line, and mostly all that is
# needed of an ELF file.
_HEAD_BYTES: Final = 4096
# So many programs are known; then all are forgotten.
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
    """What a file is: another one, or one that was changed, differs."""

    mode: int
    inode_and_size: bytes
    changed: bytes
    mount: int


_mounts: Final = Mounts()
# Programs that had nothing away, with all of their interpreters, since the mounts last
# changed: to read them again would be half the cost of a look. (It goes unnoticed when an
# interpreter alone is replaced by a link to another place.)
_known: Final[dict[bytes, _Status]] = {}
_buffer: Final = ctypes.create_string_buffer(_STATX_BYTES)


class _Place(enum.Enum):
    """What a path leads to."""

    HERE = enum.auto()  # a file on a disk of this machine
    NOWHERE = enum.auto()  # nothing that could be used: who tries is refused at once
    AWAY = enum.auto()  # nobody can say without waiting


# -- for others ------------------------------------------------------------------


def begin() -> None:
    """Take the one descriptor that all looks need; raises OSError if there is none left."""
    # Where the file may not be read, nothing is known of any path.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _mounts.update()


def end() -> None:
    """Let go of it, until there is another look."""
    _mounts.close()


def holds(path: str) -> bool:
    """Whether a path can be followed without waiting for a server; it may lead nowhere."""
    return _with_room(lambda: _holds(path))


def holds_all_in(directory: str) -> bool:
    """The same of a directory, and of all files in it."""
    return _with_room(lambda: _holds_all_in(directory))


def executes(path: str) -> bool:
    """Whether the kernel can execute, or refuse, a program without waiting for a server.

    That of a script, or of a program with shared libraries, has an interpreter that the
    kernel opens as well.
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
        return True  # no path of the system's, and refused before the kernel sees it
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
    """A descriptor of the path alone (O_PATH): of any mount, if it was in the cache."""
    if b"\0" in path:
        return _Place.NOWHERE
    found = _open_cached(path)
    if found is not _Place.AWAY:
        return found
    # Not in the cache. If its directory is local, then the entry is read from the disk,
    # and only where a link leads to is to be looked for anew. (What is mounted on is
    # always in the cache.)
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
    # EAGAIN: it is not cached. ENOSYS, EINVAL, EPERM: an older kernel, or a filter of
    # system calls, and nothing is known of any path.
    return _Place.NOWHERE if error in _NOWHERE else _Place.AWAY


def _status(fd: int) -> _Status | None:
    """Of what a descriptor is of; None if that is not local."""
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
    """What the kernel opens with a program; empty if that is nothing.

    Raises:
        OSError: it may not be read, though perhaps be executed.
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
    """What PT_INTERP says (elf(5)); nothing of a file that is cut off."""

    def part(size: int, offset: int) -> bytes:
        end = offset + size
        return head[offset:end] if end <= len(head) else os.pread(file, size, offset)

    order = "<" if head[5:6] == b"\1" else ">"
    # The table's offset, the size of an entry, their number; and of an entry the type,
    # where its text is in the file, and how long. ELFCLASS64, and ELFCLASS32.
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
