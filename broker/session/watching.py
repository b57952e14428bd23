"""Notices changes in the directories of descriptors since they were read.

Each directory is watched, and so are all links on the way to it, since package managers
turn these to another tree. For a directory that does not exist, its nearest existing
ancestor is watched. A directory that cannot be watched, because of a limit or because a
look there may hang, is logged once: it is read on reload only.

Not seen: the renaming of an ancestor, and changes to the target of a descriptor that is a
link. dbus-daemon sees neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

from broker.core.printable import printable
from broker.process import inotify, local
from broker.process.inotify import EventQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from broker.process.inotify import Change

log = logging.getLogger(__name__)

# In seconds: a burst ends after a quiet time of QUIET, and after LONGEST at the latest.
QUIET: Final = 0.02
LONGEST: Final = 0.5
# As many links as the kernel follows in a path.
_MAX_LINKS: Final = 40
_SUFFIX: Final = b".service"


class Watch:
    """Watches the directories for changes since they were last read.

    Args:
        paths: of the directories; they need not exist.
        on_change: called at the end of a burst of changes, unless they were read meanwhile.
    """

    def __init__(self, paths: Iterable[str], on_change: Callable[[], None]) -> None:
        here = os.getcwdb()
        self._paths = [os.path.join(here, os.fsencode(each)) for each in paths]
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._queue: EventQueue | None = None
        # By the kernel's watch number: the directory's path, and the names in it that matter;
        # None stands for all descriptors.
        self._watched: dict[int, tuple[bytes, set[bytes | None]]] = {}
        self._stale = True  # a change has not been read yet
        self._moved = True  # a path leads elsewhere
        self._partial = True  # some directories are not watched
        self._writing: set[bytes] = set()  # open files: an event follows when they are closed
        self._touched: set[bytes] = set()  # files that have changed since they were last read
        # Why a path is not watched.
        self._refused: dict[bytes, str] = {}
        self._said: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0  # when the burst began

    def begin(self) -> None:
        """Call before reading the directories: later changes make them stale."""
        self._drain()
        if self._moved or self._partial:
            self._watch_all()
        self._stale = False
        self._touched.clear()

    def unfinished(self, path: str) -> bool:
        """Whether a file, given by its printable path, may have been read half-written."""
        self._drain()
        return any(printable(os.fsdecode(each)) == path for each in self._writing | self._touched)

    def complain(self, silent: Collection[str]) -> None:
        """Log once which paths are not watched, except ``silent``: worse is logged of those."""
        spared = {os.fsencode(each) for each in silent}
        for reason in sorted(set(self._refused.values())):
            paths = [
                printable(os.fsdecode(path))
                for path, why in self._refused.items()
                if why == reason and path not in spared
            ]
            line = f"not watched, read only on reload: {', '.join(paths)}: {reason}"
            if paths and line not in self._said:
                self._said.add(line)
                log.warning("%s", line)

    def stale(self) -> bool:
        """Whether another reading now may find something else."""
        self._drain()
        return self._stale or self._partial

    def stop(self) -> None:
        """Stop watching; some time before ``close``, since the kernel delays that after it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._queue is not None:
            self._loop.remove_reader(self._queue.fd)
            for watch in self._watched:
                self._queue.remove(watch)
        self._watched.clear()

    def close(self) -> None:
        """Close the kernel's queue."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    # -- events ----------------------------------------------------------------

    def _drain(self) -> None:
        before = self._stale
        for change in self._queue.read() if self._queue is not None else ():
            self._take(change)
        if self._stale and not before:
            self._began = self._loop.time()
            self._wait()

    def _on_readable(self) -> None:
        """Read the changes; a burst that continues postpones its end."""
        known = self._stale
        self._drain()
        if known:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        self._timer = self._loop.call_at(min(now + QUIET, self._began + LONGEST), self._tell)

    def _tell(self) -> None:
        self._timer = None
        if self._stale:
            self._on_change()

    def _take(self, change: Change) -> None:
        if change.mask & inotify.OVERFLOW:
            self._stale = self._moved = True
            self._writing.clear()
            return
        watched = self._watched.get(change.watch)
        if watched is None:
            return  # removed since
        directory, entries = watched
        if change.mask & inotify.GONE or change.name in entries:
            self._stale = self._moved = True
        elif None in entries and _concerns_descriptors(change.name):
            self._take_file(os.path.join(directory, change.name), change.mask)

    def _take_file(self, path: bytes, mask: int) -> None:
        # A new file is empty, and another event follows when it is closed; a link is complete.
        if mask & inotify.MODIFY or (mask & inotify.CREATE and not _is_link(path)):
            self._writing.add(path)
        else:
            self._writing.discard(path)
            self._touched.add(path)
            self._stale = True

    # -- watches -----------------------------------------------------------------

    def _watch_all(self) -> None:
        before, self._watched = self._watched, {}
        self._moved = False
        self._refused.clear()
        for path in self._paths:
            try:
                if self._queue is None:
                    self._queue = EventQueue()
                    self._loop.add_reader(self._queue.fd, self._on_readable)
                self._follow(path)
            except OSError as e:
                self._refused[path] = e.strerror or str(e)
        self._partial = bool(self._refused)
        for watch in before.keys() - self._watched.keys():
            assert self._queue is not None
            self._queue.remove(watch)

    def _follow(self, path: bytes) -> None:
        """Watch the directory that a path leads to, and every link on the way.

        Raises:
            OSError: it cannot be watched.
        """
        shown = path
        for _ in range(_MAX_LINKS):
            link = self._first_link(path)
            if link is not None:
                place, name = os.path.split(link)
                # Watched before it is read: the link may change at any moment.
                self._add(place, inotify.ENTRIES, name)
                path = os.path.join(place, os.readlink(link)) + path[len(link) :]
            elif self._settle(path, shown):
                return
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _settle(self, path: bytes, shown: bytes) -> bool:
        """Watch a directory, or its nearest ancestor; False if that is no longer the nearest."""
        below = b""
        while True:
            try:
                if below:
                    self._add(path, inotify.ENTRIES, below)
                else:
                    self._add(path, inotify.FILES, None, shown)
            except (FileNotFoundError, NotADirectoryError):
                path, below = os.path.split(path)
            else:
                return not below or not os.path.lexists(os.path.join(path, below))

    def _first_link(self, path: bytes) -> bytes | None:
        end = 0
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            self._check(path[:end])
            if os.path.islink(path[:end]):
                return path[:end]
        return None

    def _add(
        self, directory: bytes, mask: int, entry: bytes | None, shown: bytes | None = None
    ) -> None:
        self._check(directory)
        assert self._queue is not None
        watch = self._queue.add(directory, mask)
        before, entries = self._watched.get(watch, (directory, set()))
        self._watched[watch] = (shown or before, entries | {entry})

    def _check(self, path: bytes) -> None:
        if not local.holds(os.fsdecode(path)):
            raise OSError(0, "its file system may not answer")


def _concerns_descriptors(name: bytes) -> bool:
    # An event of the directory itself counts, too: its permissions may have changed.
    return not name or (name.endswith(_SUFFIX) and not name.startswith(b"."))


def _is_link(path: bytes) -> bool:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1
    return False
