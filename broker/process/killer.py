"""Signals processes that are not our children, or that fork faster than we look.

Our own child keeps its PID until we reap it. Any other PID may be reused between the
look and the signal, so here we open a pidfd first, and then look again.
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

# How many of the newest PIDs a chase looks at. Each process that forks and exits may
# have an unfinished child and a dead parent beside it.
NEWEST: Final = 16
# pidfd_open's errors for a PID that is gone, or is a thread's.
_NO_PROCESS: Final = {errno.ESRCH, errno.EINVAL, errno.ENOENT}
# Its errors under a seccomp filter, and on a kernel older than 5.3.
_FORBIDDEN: Final = {errno.EPERM, errno.ENOSYS}


def has_ended(pidfd: int, timeout: int | None) -> bool:
    """Whether a process has ended, to its last thread, within ``timeout`` milliseconds."""
    poll = select.poll()
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


@contextlib.contextmanager
def held(pid: int) -> Iterator[Callable[[int], None]]:
    """A function that signals the process that has a PID now, and no later one with that PID.

    Where a filter or an old kernel allows no pidfds, a reuse between the look and the signal
    remains possible.

    Raises:
        ProcessLookupError: no process has it.
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
    """Signals those processes that are due.

    Args:
        is_due: whether a PID is to be signalled; called twice.
    """

    def __init__(self, is_due: Callable[[int], bool]) -> None:
        self._is_due = is_due
        # A pidfd of the process that was last killed, or seen alive.
        self._dying = -1

    def signal_each(self, pids: Iterable[int], *numbers: int) -> bool:
        """Send signals to those that are due; False if none of them was alive.

        Args:
            numbers: the signals in order; none to look only.
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
        """Kill a chain of processes, each of which forks and exits before a list shows it.

        Each child has a higher PID, so it is among the newest. Ends when no new process
        appears, or after ``rounds`` rounds.
        """
        found = False
        before = 0
        done: set[int] = set()
        for _ in range(rounds):
            newest = _newest_pid()
            hit = False
            for pid in range(newest, max(1, newest - NEWEST), -1):
                if pid not in done and pid != os.getpid() and self._is_due(pid):
                    # Dead now, or dying; an unfinished fork is not due yet.
                    done.add(pid)
                    hit |= self._signal(pid, signal.SIGKILL)
            if newest == before and not hit:
                break
            found |= hit
            before = newest
        return found

    def wait(self, timeout: float) -> None:
        """Wait for the end of the process last signalled or seen, at most ``timeout`` seconds."""
        has_ended(self._dying, math.ceil(timeout * 1000))

    def _signal(self, pid: int, *numbers: int) -> bool:
        """Signal a process if it is due; False if it is not, is dead, or is another user's."""
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
        # The pidfd refers to the holder of the PID at its opening: if that process is
        # alive after the second look, then that look was at this process.
        try:
            if has_ended(fd, 0) or not self._is_due(pid):
                return False
            for number in numbers:
                _send(fd, pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def close(self) -> None:
        """Close the pidfd."""
        if self._dying >= 0:
            os.close(self._dying)
            self._dying = -1


def _newest_pid() -> int:
    """The newest PID; 0 where /proc does not tell."""
    data = procfs.read("/proc/loadavg")
    return int(data.split()[-1]) if data else 0
