"""A cgroup v2 directory for each activation: the mark where tags cannot be set.

A process is in its activation's directory from its first instruction, because
the broker itself waits there: it moves into a fresh directory *after* each
spawn, and the next child is born in it.

That is the second choice, since a move is expensive: after a quiet time the kernel
synchronises RCU for it, and until then every fork, exec, exit and new thread of
the whole system waits. The second of two activations in a row took 16 ms with
cgroups and 2.5 ms with tags alone (the bench shows it), and a login starts ten.
Rejected: moving the child after the spawn (1 % of daemons have forked by then);
moving in before each spawn (the same cost, within the activation's own time);
clone3's CLONE_INTO_CGROUP, which costs nothing, but posix_spawn supports it only
since glibc 2.39, and a fork of Python takes longer than the whole spawn.

Zombies keep the path, and a directory that holds only zombies can be removed, by
any process of our user. So a broker sweeps the empty directories of dead brokers,
without checking which broker made them.
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
        wanted: with False, none is made.

    Attributes:
        current: path of the next child's directory, as /proc/PID/cgroup shows it;
            None if none can be made.
        telling: whether a process's cgroup tells its activation.
        prefix: the common prefix of our directories' paths, unique to this broker.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.current: str | None = None
        self._home = procfs.cgroup(os.getpid())
        self._mount = _mount_point() if wanted else None
        self._count = 0
        # Our PID in the name is for people. A killed broker that had the same PID may
        # have left its directories.
        name = f"dbus-activator-{os.getpid()}-{os.urandom(4).hex()}-"
        self.prefix = f"{self._home.rstrip('/')}/{name}"
        self.telling = False

    def begin(self) -> None:
        """Make the first directory, if possible, and wait in it."""
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
                # Another broker's sweep removed it while it was still empty.
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
        """Make no more; the next child must not be born in an old directory."""
        if self.current is not None:
            self.current = None
            try:
                self._move(self._home)
            except OSError as e:
                self.telling = False
                log.warning("cannot return to the cgroup %s: %s", self._home, e.strerror)

    def kill(self, path: str) -> bool:
        """SIGKILL to a whole directory at once, with all its forks (Linux 5.14 and newer)."""
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
        """Remove the directory of an ended activation."""
        if self._mount is None or path == self.current:
            return
        with spare.borrowed():
            for directory, _, _ in os.walk(self._mount + path, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError as e:
                    log.info("cgroup %s stays: %s", directory, e.strerror)

    def _sweep(self, home: str) -> None:
        """Remove empty directories; a living broker's own is not empty, and it misses no other.

        The kernel says for a whole tree whether it holds a process; the directories of a tree
        in use belong to its owner.
        """
        with contextlib.suppress(OSError):  # then we can make none either
            for name in filter(_NAME.fullmatch, os.listdir(home)):
                events = procfs.read(f"{home}/{name}/cgroup.events") or b""
                if b"populated 0" in events.splitlines():
                    self.remove(f"{self._home.rstrip('/')}/{name}")

    def left(self) -> list[str]:
        """The paths of all existing directories."""
        if self._mount is None or not self._count:
            return []
        home, _, begin = self.prefix.rpartition("/")
        names = os.listdir(f"{self._mount}{home}")
        return [f"{home}/{name}" for name in names if name.startswith(begin)]

    def close(self) -> None:
        """Return to our original cgroup, and remove our empty directories."""
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
            # A bind mount of a part of the tree: paths in /proc do not match it.
            if root == b"/":
                return os.fsdecode(point)
    return None
