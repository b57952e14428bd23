"""The end of all that a broker has started, when the broker itself is killed.

Nothing can be done by a process that gets SIGKILL, and what it leaves goes on
under init. So a fork of the broker waits for its end, and then kills what bears
the broker's marks, the bus among it.

It is a fork that executes nothing: the code and the interpreter are shared with
the broker, and nothing has to be found, read or allocated at a moment at which
there may be no memory, no disk, or another version of this file. It holds no
descriptor of the broker's but a pidfd, and does not wake before the end.

Rejected: PR_SET_PDEATHSIG on what is spawned (not inherited by a fork, cleared by
a set-user-ID exec, and it needs a trampoline); a guardian that is the broker's
parent and subreaper (then the broker is not the process that was started, whose
PID, status and signals everybody knows).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from resource import RLIMIT_RSS
from typing import TYPE_CHECKING, Final, NoReturn

from broker.process import kernel, procfs, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.process.cgroup import Cgroups
    from broker.process.tag import Range

# What ps shows in the place of the broker's name; the kernel takes 15 bytes.
NAME: Final = "broker-guardian"
# So many sweeps in a row must find nothing alive.
QUIET_SWEEPS: Final = 2
# How many of the newest PIDs are looked at again at the end of a sweep, and how often
# at the most: some milliseconds.
NEWEST: Final = 16
CHASES: Final = 256
# How long to wait for what was killed last before all are searched again, in
# milliseconds. In the kernel's hands a process may stay for longer than that.
PATIENCE: Final = 50
# pidfd_open says these of a PID that is gone, or is a thread's.
_NO_PROCESS: Final = {errno.ESRCH, errno.EINVAL, errno.ENOENT}


class Guardian:
    """The process that waits for our end.

    Attributes:
        pid: of a child of ours.
    """

    def __init__(self, is_ours: Callable[[int], bool], cgroups: Cgroups) -> None:
        broker = os.pidfd_open(os.getpid())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_guardian(broker, is_ours, cgroups)
        finally:
            os.close(broker)

    def end(self) -> None:
        """End and reap it: the last thing that is done, when nothing is left to guard."""
        # Our own child, which nobody else reaps.
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def by_tag(tags: Range, instance: Range) -> Callable[[int], bool]:
    """Tell by both limits whether a process comes from one broker."""

    def is_ours(pid: int) -> bool:
        return tag.read(pid) in tags and tag.read(pid, RLIMIT_RSS) in instance

    return is_ours


def by_cgroup(cgroups: Cgroups) -> Callable[[int], bool]:
    """Tell by its cgroup whether a process comes from one broker."""
    return lambda pid: procfs.cgroup(pid).startswith(cgroups.prefix)


def _be_guardian(broker: int, is_ours: Callable[[int], bool], cgroups: Cgroups) -> NoReturn:
    # What fails here fails in silence, as there is nobody left to tell: the broker
    # sees its guardian end, or has ended itself.
    try:
        _detach(broker)
        cgroups.leave()
        _wait(broker, None)
        Sweeper(is_ours).take_down(cgroups)
    finally:
        os._exit(0)


def _detach(broker: int) -> None:
    """Have nothing to do with the broker's terminal, files and signals."""
    os.setsid()
    kernel.set_name(NAME)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        # Whoever reads from a pipe of the broker's must see its end.
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != broker:
            # The descriptor that listed the directory is closed by now.
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")


def _wait(pidfd: int, timeout: int | None) -> bool:
    """Whether a process has ended, to its last thread, within so many milliseconds."""
    poll = select.poll()
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


class Sweeper:
    """Kills processes by a mark that they bear, until there are none."""

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        # A pidfd of what was killed last.
        self._dying = -1

    def take_down(self, cgroups: Cgroups) -> None:
        """Returns when nothing is left that we may kill, and no cgroup either."""
        quiet = 0
        while quiet < QUIET_SWEEPS:
            for path in cgroups.left():
                cgroups.kill(path)
            if self._sweep():
                quiet = 0
                _wait(self._dying, PATIENCE)
            else:
                quiet += 1
        for path in cgroups.left():
            cgroups.remove(path)

    def _sweep(self) -> bool:
        """Kill whatever is found; False if nothing was.

        A process that forks and ends, again and again, is mostly gone when its turn
        in a list comes. But its child has a higher PID, and so the newest ones are
        looked at again, until nothing was forked meanwhile.
        """
        found = self._kill_each(int(name) for name in os.listdir("/proc") if name.isdigit())
        before = 0
        for _ in range(CHASES):
            newest = _newest_pid()
            hit = self._kill_each(range(newest, max(1, newest - NEWEST), -1))
            if newest == before and not hit:
                break
            found |= hit
            before = newest
        return found

    def _kill_each(self, pids: Iterable[int]) -> bool:
        found = False
        for pid in pids:
            # The first look, which is cheap, decides for nearly all of them.
            if pid != os.getpid() and self._is_ours(pid):
                found |= self._kill(pid)
        return found

    def _kill(self, pid: int) -> bool:
        """Kill a process if it is ours; False if it is not, or is dead, or another user's."""
        try:
            fd = os.pidfd_open(pid)
        except OSError as e:
            return e.errno not in _NO_PROCESS
        if not self._kill_held(fd, pid):
            os.close(fd)
            return False
        if self._dying >= 0:
            os.close(self._dying)
        self._dying = fd
        return True

    def _kill_held(self, fd: int, pid: int) -> bool:
        # No child of ours, so its PID may have been given to somebody else since the
        # first look. The descriptor holds whoever had it when it was opened: if that one
        # is alive after the second look, then it is the one that was looked at.
        try:
            if _wait(fd, 0) or not self._is_ours(pid):
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def _newest_pid() -> int:
    """The PID that was given out last; 0 where /proc does not tell."""
    data = procfs.read("/proc/loadavg")
    return int(data.split()[-1]) if data else 0
