"""SIGTERM and SIGKILL to processes that are not our children or try to be faster than we are.

The PID of our own child is its own until we reap it. Anybody else's may be given
to a stranger between the look at it and the signal, so here a descriptor is
opened first, and then it is looked again.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
from typing import TYPE_CHECKING, Final

from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# How many of the newest PIDs are looked at in a chase. Each that forks and goes may
# have a forked child in the making and a dead parent beside it.
NEWEST: Final = 16
# pidfd_open says these of a PID that is gone, or is a thread's.
_NO_PROCESS: Final = {errno.ESRCH, errno.EINVAL, errno.ENOENT}
# What a seccomp filter says instead of doing it, and a kernel older than 5.3.
_FORBIDDEN: Final = {errno.EPERM, errno.ENOSYS}


def has_ended(pidfd: int, timeout: int | None) -> bool:
    """Whether a process has ended, to its last thread, within so many milliseconds."""
    poll = select.poll()
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


@contextlib.contextmanager
def held(pid: int) -> Iterator[Callable[[int], None]]:
    """What sends a signal to whoever has a PID now, and to nobody who gets it later.

    Where a filter or an old kernel has no pidfds for us, the moment between the look and
    the signal is all that is left to chance.

    Raises:
        ProcessLookupError: nobody has it.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as e:
        if e.errno not in _FORBIDDEN:
            raise
        yield lambda number: os.kill(pid, number)
        return
    try:
        yield lambda number: _send(fd, pid, number)
    finally:
        os.close(fd)


def _send(fd: int, pid: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(fd, number)
    except OSError as e:
        if e.errno not in _FORBIDDEN:
            raise
        # If the process is another user's, this says so.
        os.kill(pid, number)


class Killer:
    """Kills what is to be killed.

    Args:
        is_due: whether a PID is one of those; asked twice.
    """

    def __init__(self, is_due: Callable[[int], bool]) -> None:
        self._is_due = is_due
        # A pidfd of what was killed last, or seen alive.
        self._dying = -1

    def signal_each(self, pids: Iterable[int], *numbers: int) -> bool:
        """Send signals to those that are due; False if none of them was alive.

        Args:
            numbers: in this order; none at all to look only.
        """
        found = False
        for pid in pids:
            # The first look, which is cheap, decides for nearly all of them.
            if pid != os.getpid() and self._is_due(pid):
                found |= self._signal(pid, *numbers)
        return found

    def kill_each(self, pids: Iterable[int]) -> bool:
        """SIGKILL to those that are due; False if none of them was alive."""
        return self.signal_each(pids, signal.SIGKILL)

    def chase(self, rounds: int) -> bool:
        """Kill what forks and ends, again and again, and is gone when a list is read.

        Its child has a higher PID, so it is among the newest. Ends when nothing is
        forked any more, or after so many rounds.
        """
        found = False
        before = 0
        done: set[int] = set()
        for _ in range(rounds):
            newest = _newest_pid()
            hit = False
            for pid in range(newest, max(1, newest - NEWEST), -1):
                if pid not in done and pid != os.getpid() and self._is_due(pid):
                    # Dead now, or dying; one that is still being made is not due yet.
                    done.add(pid)
                    hit |= self._signal(pid, signal.SIGKILL)
            if newest == before and not hit:
                break
            found |= hit
            before = newest
        return found

    def wait(self, timeout: float) -> None:
        """Until the one that was signalled or seen last has ended, or for so many seconds."""
        has_ended(self._dying, math.ceil(timeout * 1000))

    def _signal(self, pid: int, *numbers: int) -> bool:
        """Signal a process if it is due; False if it is not, or is dead, or another user's."""
        try:
            fd = os.pidfd_open(pid)
        except OSError as e:
            return e.errno not in _NO_PROCESS
        if not self._signal_held(fd, pid, numbers):
            os.close(fd)
            return False
        self.close()
        self._dying = fd
        return True

    def _signal_held(self, fd: int, pid: int, numbers: Iterable[int]) -> bool:
        # The descriptor holds whoever had the PID when it was opened: if that one is
        # alive after the second look, then it is the one that was looked at.
        try:
            if has_ended(fd, 0) or not self._is_due(pid):
                return False
            for number in numbers:
                _send(fd, pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def close(self) -> None:
        """Wait for none any more."""
        if self._dying >= 0:
            os.close(self._dying)
            self._dying = -1


def _newest_pid() -> int:
    """The PID that was given out last; 0 where /proc does not tell."""
    data = procfs.read("/proc/loadavg")
    return int(data.split()[-1]) if data else 0
