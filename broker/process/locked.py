"""Directories with a lock, so that a broker can sweep those of dead brokers.

The maker holds a lock (flock) on the directory itself. The kernel drops it with the
last descriptor, so a process that gets the lock knows that the maker is dead: a PID in
a name may be reused by now, and an age says nothing.

Rejected: a lock file in it, which costs an inode where a disk has few.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set a umask for the context; services still get the one that we were started with."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def usable_umask() -> Iterator[None]:
    """For the context, use our original umask, but keep new files usable for ourselves."""
    before = os.umask(0o077)
    try:
        os.umask(before & ~0o700)
        yield
    finally:
        os.umask(before)


@dataclass(slots=True)
class LockedDirectory:
    """A new directory with our lock on it; raises OSError if it cannot be made.

    Attributes:
        path: where it is.
        fd: holds the lock; -1 after its release.
    """

    path: str
    fd: int = -1

    def __post_init__(self) -> None:
        with umask(0o077):
            os.mkdir(self.path)  # fails if the name exists, as a foreign link too
        try:
            self.fd = os.open(self.path, _OPEN)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweep may have come before the lock.
            os.stat(self.path, follow_symlinks=False)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            raise

    def remove(self) -> None:
        """Remove it with its contents; OSError: a part stays."""
        try:
            _empty(self.fd)
            os.rmdir(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Release the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def sweep(parent: str, pattern: re.Pattern[str]) -> None:
    """Remove our user's directories whose makers are dead.

    Args:
        pattern: matches their whole names.
    """
    try:
        names = os.listdir(parent)
    except OSError:
        return
    for name in filter(pattern.fullmatch, names):
        path = os.path.join(parent, name)
        try:
            fd = os.open(path, _OPEN)
        except OSError:
            continue  # no directory, not ours, or gone
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(fd)
                os.rmdir(path)
        except BlockingIOError:
            pass  # its maker lives
        except OSError as e:
            log.info("%s of a dead broker stays: %s", path, e.strerror)
        finally:
            os.close(fd)


def _empty(directory: int) -> None:
    """Remove a directory's contents, without following links."""
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=directory)
            continue
        try:
            # First, since a mount point is EBUSY here, and to open it may hang.
            os.rmdir(entry.name, dir_fd=directory)
        except OSError as e:
            if e.errno != errno.ENOTEMPTY:
                raise
            fd = os.open(entry.name, _OPEN, dir_fd=directory)
            try:
                _empty(fd)
            finally:
                os.close(fd)
            os.rmdir(entry.name, dir_fd=directory)
