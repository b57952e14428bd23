"""The PID file of a bus: ours as long as we live, and never taken from another running bus.

We hold a lock (flock) on it, which the kernel drops at any end of ours. So a broker is
certain of another broker's file, under any program name, and of two brokers that find the
same stale file only one takes it. dbus-daemon holds no lock: there the kernel's name of
the process must do, since its PID may be reused by now.

Rejected: to remove a stale file and write a new one: in between, another bus may write
its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

from broker.core.digits import decimal
from broker.core.printable import printable, quoted
from broker.errors import BadConfiguration
from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

log = logging.getLogger(__name__)

# Not through a link, and without waiting for a FIFO.
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# A file with more than a number holds other data, which its owner may need.
_MAX_BYTES: Final = 32
_MAX_PID: Final = 2**22  # PID_MAX_LIMIT of the kernel
# How often the file may vanish between its opening and our lock, with the bus that had it.
_TRIES: Final = 16
# The kernel cuts a name after 15 bytes.
_BUSES: Final = {"dbus-daemon", "dbus-broker", "dbus-broker-lau", "dbus-activator"}


@contextlib.contextmanager
def held(path: str, own: Collection[int]) -> Iterator[None]:
    """Hold a file with our PID in it for the context, and remove it afterwards.

    Args:
        own: the PIDs of our own start. A machine or a container that was restarted gives
            out the same ones again, so a stale file may hold them.

    Raises:
        BadConfiguration: it belongs to a running bus, is no PID file, or cannot be written.
    """
    fd = _take(path, own)
    try:
        _write(path, fd)
        yield
    finally:
        # It may have been removed, and another bus may have written its own.
        if _is_at(path, fd):
            os.unlink(path)
        os.close(fd)


def _take(path: str, own: Collection[int]) -> int:
    """A descriptor of the file, which we have locked, and which is no other bus's."""
    for _ in range(_TRIES):
        try:
            fd = os.open(path, _OPEN, 0o644)
        except OSError as e:
            raise (_no_pid_file(path) if e.errno == errno.ELOOP else _refusal(path, e)) from e
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _no_pid_file(path)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, fd):
                _check_stale(path, os.pread(fd, _MAX_BYTES + 1, 0), own)
                return fd
        except BlockingIOError as e:
            os.close(fd)
            raise _running(path) from e
        except OSError as e:
            os.close(fd)
            raise _refusal(path, e) from e
        except BadConfiguration:
            os.close(fd)
            raise
        os.close(fd)
    raise _running(path)


def _write(path: str, fd: int) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as e:
        raise _refusal(path, e) from e


def _check_stale(path: str, data: bytes, own: Collection[int]) -> None:
    """Refuse a file that another bus or program has written; log a stale one that we take."""
    text = data.decode("utf-8", "backslashreplace").strip()
    if not text:
        return  # new, or from a bus that could not write
    pid = decimal(text, _MAX_PID) if len(data) <= _MAX_BYTES else None
    if pid is None:
        raise BadConfiguration(f"the PID file {path} holds no PID, but {quoted(text)}")
    if pid in own or not _exists(pid):
        log.warning("the PID file %s is taken over: process %d has ended", path, pid)
        return
    about = procfs.stat(pid)
    if about is None or about.comm in _BUSES:  # None: another user's, hidden by hidepid
        raise _running(path)
    name = printable(about.comm)
    log.warning(
        "the PID file %s is taken over: process %d is not a message bus, but %s", path, pid, name
    )


def _exists(pid: int) -> bool:
    about = procfs.stat(pid)
    if about is not None:
        return not about.ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_at(path: str, fd: int) -> bool:
    """Whether an open file is the one at a path now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    return False


def _running(path: str) -> BadConfiguration:
    return BadConfiguration(
        f"the PID file {path} exists: if that bus is not running, remove the file"
    )


def _refusal(path: str, e: OSError) -> BadConfiguration:
    return BadConfiguration(f"cannot write the PID file {path}: {e.strerror}")


def _no_pid_file(path: str) -> BadConfiguration:
    return BadConfiguration(f"the PID file {path} is not a regular file")
