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
import re
import select
import stat
import struct
from typing import TYPE_CHECKING, Final

from broker.process import spare

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES: Final = frozenset(
    b"bcachefs btrfs cramfs devtmpfs erofs exfat ext2 ext3 ext4 f2fs hfsplus iso9660 jfs nilfs2 "
    b"ntfs3 overlay proc ramfs reiserfs rootfs squashfs sysfs tmpfs ubifs udf ufs vfat xfs "
    b"zfs".split()
)

# <linux/openat2.h>; the number is the same on all machines that are younger than it.
_OPENAT2: Final = 437
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
# <linux/stat.h>; DONT_SYNC: "Don't synchronize …, but rather just take whatever the
# system has cached if possible", so that no server is asked.
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_TYPE_MODE_MOUNT: Final = 0x1003
_STATX_BYTES: Final = 256
_STATX: Final = struct.Struct("=28x H 114x Q")  # stx_mode, stx_mnt_id
# What a path that leads to no file is refused with.
_NOWHERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG}
# As many links as the kernel follows in a path, and interpreters of interpreters (execve(2)).
_MAX_LINKS: Final = 40
_MAX_INTERPRETERS: Final = 5
# Of a program: more than the kernel reads of a script's first line, or takes for a name.
_HEAD_BYTES: Final = 4096
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


class _Place(enum.Enum):
    """What a path leads to."""

    HERE = enum.auto()  # a file on a disk of this machine
    NOWHERE = enum.auto()  # nothing that could be used: who tries is refused at once
    AWAY = enum.auto()  # nobody can say without waiting


# -- for others ------------------------------------------------------------------


def begin() -> None:
    """Take the one descriptor that is needed for good; raises OSError if there is none."""
    # Where the file may not be read, nothing is known of any path.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _mounts.open()


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
        return look()
    except OSError as e:
        if e.errno not in spare.FULL:
            return False
    except UnicodeEncodeError:
        return True  # no path of the system's, and refused before the kernel sees it
    try:
        with spare.room(), spare.room():
            return look()
    except OSError:
        return False


# -- paths -----------------------------------------------------------------------


def _holds(path: str) -> bool:
    found = _look(os.fsencode(path))
    if isinstance(found, _Place):
        return found is _Place.NOWHERE
    try:
        return _mode(found) is not None
    finally:
        os.close(found)


def _holds_all_in(directory: str) -> bool:
    found = _look(os.fsencode(directory))
    if isinstance(found, _Place):
        return found is _Place.NOWHERE
    try:
        mode = _mode(found)
        if mode is None or _mounts.away_below(os.readlink(f"/proc/self/fd/{found}")):
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
        if _mode(parent) is None:
            return _Place.AWAY
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as e:
        if e.errno in _NOWHERE:
            return _Place.NOWHERE
        raise
    finally:
        os.close(parent)
    mode = _mode(found)
    if mode is None or not stat.S_ISLNK(mode):
        return found
    try:
        target = os.readlink(b"", dir_fd=found)
    finally:
        os.close(found)
    return _look(os.path.join(directory, target), links - 1) if links else _Place.NOWHERE


def _open_cached(path: bytes) -> int | _Place:
    how = ctypes.byref(_CACHED)
    found: int = _syscall(_OPENAT2, _AT_FDCWD, path, how, ctypes.sizeof(_CACHED))
    if found >= 0:
        return found
    error = ctypes.get_errno()
    if error in spare.FULL:
        raise OSError(error, os.strerror(error))
    # EAGAIN: it is not cached. ENOSYS, EINVAL, EPERM: an older kernel, or a filter of
    # system calls, and nothing is known of any path.
    return _Place.NOWHERE if error in _NOWHERE else _Place.AWAY


def _mode(fd: int) -> int | None:
    """The type and mode of what a descriptor is of; None if that is not local."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(fd, b"", flags, _STATX_TYPE_MODE_MOUNT, buffer) != 0:
        return None
    mode: int
    mode, mount = _STATX.unpack_from(buffer)
    return mode if _mounts.are_local(mount) else None


# -- programs --------------------------------------------------------------------


def _executes(path: str) -> bool:
    return _program(os.fsencode(path), _MAX_INTERPRETERS) is not _Place.AWAY


def _program(path: bytes, depth: int) -> _Place:
    found = _look(path)
    if isinstance(found, _Place):
        return found
    try:
        mode = _mode(found)
        if mode is None:
            return _Place.AWAY
        if not stat.S_ISREG(mode) or not mode & 0o111:
            return _Place.NOWHERE
        interpreter = _interpreter(found)
    finally:
        os.close(found)
    return _program(interpreter, depth - 1) if interpreter and depth else _Place.HERE


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
    order = "<" if head[5:6] == b"\1" else ">"
    # The table's offset, the size of an entry, their number; and of an entry the type,
    # where its text is in the file, and how long. ELFCLASS64, and ELFCLASS32.
    if head[4:5] == b"\2":
        header, entry = f"{order}32xQ14xHH", f"{order}I4xQ16xQ"
    else:
        header, entry = f"{order}28xI10xHH", f"{order}II8xI"
    try:
        start, size, count = struct.unpack_from(header, head)
        table = os.pread(file, size * count, start)
        for at in range(0, size * count, size):
            kind, offset, length = struct.unpack_from(entry, table, at)
            if kind == 3:  # PT_INTERP
                return os.pread(file, min(length, _HEAD_BYTES), offset).partition(b"\0")[0]
    except (struct.error, ValueError, OverflowError):
        pass
    return b""


# -- mounts ----------------------------------------------------------------------


class _Mounts:
    """The mounts of our namespace, read again when they have changed."""

    def __init__(self) -> None:
        self._fd = -1
        self._poll = select.poll()
        self._local: frozenset[int] = frozenset()
        self._away: tuple[str, ...] = ()

    def open(self) -> None:
        """Read them for the first time."""
        if self._fd < 0:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            # "This file is pollable: after opening the file for reading, a change in this
            # file … causes … poll(2) … to mark the file descriptor as having a priority
            # event (POLLPRI)" (proc(5), of mounts).
            self._poll.register(self._fd, select.POLLPRI)
            self._read()

    def are_local(self, mount: int) -> bool:
        """Whether one is of a local type, by its number."""
        self._update()
        return mount in self._local

    def away_below(self, directory: str) -> bool:
        """Whether something in a directory, or below, is a mount that is not local."""
        self._update()
        return any(point.startswith(directory.rstrip("/") + "/") for point in self._away)

    def _update(self) -> None:
        if self._fd < 0:
            self.open()
        elif self._poll.poll(0):
            self._read()

    def _read(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        data = b""
        while chunk := os.read(self._fd, 1 << 16):
            data += chunk
        local, away = set(), []
        for line in data.splitlines():
            before, _, after = line.partition(b" - ")
            number, _, _, _, point, *_ = before.split(b" ")
            if after.partition(b" ")[0] in TYPES:
                local.add(int(number))
            else:
                away.append(os.fsdecode(_ESCAPE.sub(_unescaped, point)))
        self._local, self._away = frozenset(local), tuple(away)


# Blanks and backslashes in a mount's point, in octal.
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])


_mounts = _Mounts()
