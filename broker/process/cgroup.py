"""A cgroup v2 directory for each activation: the mark where there can be no tag.

A process is in its activation's directory from its first instruction, because
the broker itself waits there: it moves into a fresh directory *after* each
spawn, and the next child is born in it.

That is the second choice, since a move is dear: after a quiet time the kernel
synchronises RCU for it, and until then every fork, exec, exit and new thread of
the whole system waits. The second of two activations in a row took 16 ms with
cgroups and 2.5 ms with tags alone (the bench shows it), and a login starts ten.
Rejected: moving the child after the spawn (1 % of daemons have forked by then);
moving in before each spawn (the same cost on an activation's own way); clone3's
CLONE_INTO_CGROUP, which costs nothing, but which posix_spawn learnt with glibc
2.39 only, and a fork of Python takes longer than the whole spawn.

Zombies keep the path, and a directory that holds only zombies can be removed.
So it can by anybody of our user: those that a dead broker has left are swept by
the next, without asking whose they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from typing import Final

from broker.process import procfs, spare
from broker.process.locked import umask

log = logging.getLogger(__name__)

_NAME: Final = re.compile("dbus-activator-[0-9]+-[0-9a-f]{8}-[0-9]+")


class Cgroups:
    """The directories of this broker's activations, made below its own cgroup from ``begin`` on.

    Args:
        wanted: False makes none.

    Attributes:
        current: path of the directory that the next child is born in, as
            /proc/PID/cgroup shows it; None if none can be made.
        telling: whether a process's cgroup says which activation it came from.
        prefix: what the paths of all of them begin with, and no others.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.current: str | None = None
        self._home = procfs.cgroup(os.getpid())
        self._mount = _mount_point() if wanted else None
        self._count = 0
        # Our PID is for people. Whoever had it before us may have been killed, and
        # left its directories.
        name = f"dbus-activator-{os.getpid()}-{os.urandom(4).hex()}-"
        self.prefix = f"{self._home.rstrip('/')}/{name}"
        self.telling = False

    def begin(self) -> None:
        """Make the first, and wait in it, if there can be any."""
        if self._home and self._mount is not None:
            self._sweep(self._mount + self._home)
            self._enter_new()
        self.telling = self.current is not None

    def advance(self) -> None:
        """Give ``current`` to the child just spawned, and wait in a new one."""
        if self.current is not None:
            self._enter_new()

    def _enter_new(self) -> None:
        if self._mount is None:
            return
        path = None
        try:
            path = self._make()
            try:
                self._move(path)
            except FileNotFoundError:
                # Another broker's sweep took it while it was still empty.
                path = self._make()
                self._move(path)
        except OSError as e:
            log.info("no cgroup for services: %s: %s", path or self._home, e.strerror)
            self.leave()
            if path is not None:
                self.remove(path)
        else:
            self.current = path

    def _make(self) -> str:
        self._count += 1
        path = f"{self.prefix}{self._count}"
        with umask(0o022):
            os.mkdir(f"{self._mount}{path}")
        return path

    def _move(self, path: str) -> None:
        # os.open and os.write: a file object's buffer would hide the kernel's refusal.
        with spare.borrowed():
            fd = os.open(f"{self._mount}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def leave(self) -> None:
        """Make no more; whoever is spawned next must not be born in an old one."""
        if self.current is not None:
            self.current = None
            try:
                self._move(self._home)
            except OSError as e:
                self.telling = False
                log.warning("cannot return to the cgroup %s: %s", self._home, e.strerror)

    def kill(self, path: str) -> bool:
        """SIGKILL to all in a directory at once, whatever they fork (Linux 5.14 and newer)."""
        if not self.telling or path == self.current:
            return False
        try:
            fd = os.open(f"{self._mount}{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fd, b"1")
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def remove(self, path: str) -> None:
        """Remove the directory of an activation that has ended."""
        if self._mount is None or path == self.current:
            return
        with spare.borrowed():
            for directory, _, _ in os.walk(self._mount + path, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError as e:
                    log.info("cgroup %s stays: %s", directory, e.strerror)

    def _sweep(self, home: str) -> None:
        """Remove what is empty; a living broker can do without, and has not lost its own place.

        The kernel says for a whole tree whether there is a process in it; directories
        in a tree that is in use are its owner's.
        """
        with contextlib.suppress(OSError):  # then we can make none either
            for name in filter(_NAME.fullmatch, os.listdir(home)):
                events = procfs.read(f"{home}/{name}/cgroup.events") or b""
                if b"populated 0" in events.splitlines():
                    self.remove(f"{self._home.rstrip('/')}/{name}")

    def left(self) -> list[str]:
        """The paths of all that there are."""
        if self._mount is None or not self._count:
            return []
        home, _, begin = self.prefix.rpartition("/")
        names = os.listdir(f"{self._mount}{home}")
        return [f"{home}/{name}" for name in names if name.startswith(begin)]

    def close(self) -> None:
        """Go back to where we came from, and leave no directory of ours empty behind."""
        current = self.current
        if current is not None:
            self.leave()
            self.remove(current)


# st_f_type of statfs would say it without a parser, but Python's statvfs has no
# such field; the table of mounts has.
_MOUNTS: Final = "/proc/self/mountinfo"


def _mount_point() -> str | None:
    for line in (procfs.read(_MOUNTS) or b"").splitlines():
        before, _, after = line.partition(b" - ")
        if after.startswith(b"cgroup2 "):
            root, point = before.split()[3:5]
            # A bind mount of a part of the tree: paths in /proc would not fit it.
            if root == b"/":
                return os.fsdecode(point)
    return None
