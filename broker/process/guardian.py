"""The guardian: ends all processes of a broker when the broker itself is killed.

A process can do nothing on SIGKILL, and its children go on under init. So a fork of
the broker waits for the broker's end, logs it, and then ends the remaining processes
as the broker would have: SIGTERM, SIGKILL after the stop timeout, and the bus last,
since services need it to end well.

The fork executes no program: it shares the code and the interpreter with the broker,
and nothing has to be found, read or allocated at a moment when there may be no memory,
no disk, or another version of this file. It keeps none of the broker's descriptors but
standard error, and does not wake before the end. News that the broker learns later (the
bus's PID, and the descriptors that the bus lives by) waits in a socket.

Rejected: PR_SET_PDEATHSIG on spawned processes (not inherited by a fork, cleared by
a set-user-ID exec, and it needs a trampoline); a guardian as the broker's parent and
subreaper (then the broker is not the started process, whose PID, status and signals
its supervisor knows).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Final, NoReturn

from broker.core.start_limit import StartLimit
from broker.process import kernel, procfs, spare, tag
from broker.process.killer import Killer, has_ended
from broker.process.ownership import Ownership

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.core.clock import Instant
    from broker.core.exits import Exit
    from broker.process.cgroup import Cgroups
    from broker.process.tag import Range

log = logging.getLogger(__name__)

# The name that ps shows instead of the broker's; the kernel takes 15 bytes.
NAME: Final = "broker-guardian"
# How many lost guardians are replaced within how many microseconds: someone may kill them
# on purpose.
LOSSES: Final = 5
LOSSES_INTERVAL: Final = 10_000_000
# How many sweeps in a row must find nothing alive.
QUIET_SWEEPS: Final = 2
# How often a sweep looks at the newest processes, at most: some milliseconds.
CHASES: Final = 256
# How long to wait for the last signalled process before the next sweep, in seconds.
# A process may hang in the kernel for longer than that.
PATIENCE: Final = 0.05
# In seconds: a process that survives for so long hangs in the kernel (a disk that does
# not answer), where SIGKILL does not reach it.
GIVE_UP: Final = 5.0
# The descriptors that the bus lives by: its controller's, and the locks of directories.
_MAX_KEPT: Final = 8


class Guardian:
    """The process that waits for our end.

    Attributes:
        pid: the guardian's, a child of ours; 0 if there is none.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._owned = Ownership(None, None, "")
        self._losses = StartLimit(LOSSES, LOSSES_INTERVAL)
        self._told: socket.socket | None = None
        self._last = 0
        self._kept: list[int] = []

    def begin(
        self, tags: Range | None, cgroups: Cgroups, stop_timeout: float, *, silent: bool
    ) -> None:
        """Guard all processes that are started from now on; a failure to do so is logged.

        Args:
            tags: the tags that they will bear; None if they are in ``cgroups``, or have no mark.
            stop_timeout: from SIGTERM to SIGKILL, in seconds.
            silent: log nothing in the end, and do not keep our standard error open for it.
        """
        telling = cgroups.prefix if cgroups.telling else ""
        self._owned = Ownership(tag.draw_instance(), tags, telling)
        if not self._owned:
            # A process with only a tag may be another broker's.
            log.warning("processes cannot be marked: if we are killed, they stay")
            return
        self._cgroups = cgroups
        self._stop_timeout = stop_timeout
        self._silent = silent
        self._fork()

    def _fork(self) -> None:
        broker = os.getpid()
        if self._told is not None:
            self._told.close()
        try:
            self._told, heard = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            pidfd = os.pidfd_open(broker)
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    self._be_guardian(broker, pidfd, heard)
            finally:
                os.close(pidfd)
                heard.close()
            self._tell()
        except OSError as e:
            log.error("no guardian: if we are killed, services stay: %s", e.strerror)

    def end_last(self, pid: int, kept: Sequence[int]) -> None:
        """Name the process that is ended after all others when we are killed: the bus.

        Args:
            kept: descriptors that stay open until then.
        """
        self._last = pid
        self._kept = [os.dup(fd) for fd in kept]
        if self.pid:
            self._tell()

    def _tell(self) -> None:
        if self._last:
            assert self._told is not None
            # The message and its descriptors wait in the socket until we are dead.
            with contextlib.suppress(OSError):  # the user has too many descriptors in flight
                socket.send_fds(self._told, [str(self._last).encode()], self._kept)

    def knows(self, pid: int) -> bool:
        """Whether a process bears marks that no other broker gives."""
        return self._owned.marks(pid)

    def lost(self, how: Exit, now: Instant) -> None:
        """The guardian was reaped, though only we should end it: start another."""
        self.pid = 0
        self._losses.failed(now.monotonic)
        again = self._losses.hit(now.monotonic)
        log.error(
            "guardian lost (code %d, status %d); %s",
            how.code,
            how.status,
            "if we are killed, services stay" if again else "another was started",
        )
        if not again:
            self._fork()

    def end(self) -> None:
        """End and reap the guardian, last of all, when no process is left to guard."""
        if self.pid:
            # Our own child; the reaper has stopped by now.
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        if self._told is not None:
            self._told.close()
        while self._kept:
            os.close(self._kept.pop())

    def _be_guardian(self, broker: int, pidfd: int, heard: socket.socket) -> NoReturn:
        # A failure here is silent, since no one is left to tell: the broker sees its
        # guardian end, or has ended itself.
        try:
            _detach({pidfd, heard.fileno()}, silent=self._silent)
            self._cgroups.leave()
            has_ended(pidfd, None)
            _say_why(broker)
            take_down(self._owned, _hear(heard), self._cgroups, self._stop_timeout)
        finally:
            os._exit(0)


def _detach(kept: set[int], *, silent: bool) -> None:
    """Detach from the broker's terminal, files and signals."""
    os.setsid()
    kernel.set_name(NAME)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    spare.release()
    # The readers of the broker's pipes must see their end.
    _let_go_of(0, 1, *((2,) if silent else ()))
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            # The descriptor that listed the directory is closed by now.
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")


def _let_go_of(*streams: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in streams:
        os.dup2(null, fd)
    os.close(null)


def _say_why(broker: int) -> None:
    """One line, if it can be written at once: a terminal or a pipe may be stopped."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in poll.poll(0)):
        log.error("the broker (process %d) was killed: its session ends", broker)
    _let_go_of(2)


def _hear(heard: socket.socket) -> int:
    """Receive the PID of the process to end last; 0 for none.

    The descriptors that come with it stay open as long as we live.
    """
    heard.setblocking(False)
    try:
        data, _, _, _ = socket.recv_fds(heard, 32, _MAX_KEPT)
    except BlockingIOError:
        return 0
    return int(data)


def take_down(owned: Ownership, last: int, cgroups: Cgroups, stop_timeout: float) -> None:
    """End everything; returns when no process that we may kill is left, and no cgroup.

    Args:
        last: the PID of the process to end after all others; 0 for none.
    """
    stuck = _Stuck(stop_timeout + GIVE_UP)
    unasked = set(_pids())
    # A process that only seems to be ours is judged now: later, its own broker may have
    # died as well.
    strange = {pid for pid in unasked if not owned.left(pid)}

    def is_due(pid: int) -> bool:
        ours = owned.marks(pid) if pid in strange else owned.left(pid)
        return ours and not stuck.has(pid)

    others = Killer(lambda pid: pid != last and is_due(pid))
    deadline = time.monotonic() + stop_timeout
    # SIGTERM once to each, as the broker does, and not to later processes: one that they
    # start in order to end well (fusermount) is spared. (A stopped process takes it only
    # when it continues.) One look may find a process's origin unclear, while its parent ends.
    while True:
        for pid in sorted(unasked):  # parents first, mostly: one may wait for its child
            if others.signal_each([pid], signal.SIGTERM, signal.SIGCONT):
                unasked.discard(pid)
        left = deadline - time.monotonic()
        if left <= 0 or not others.signal_each(_pids()):
            break
        others.wait(min(PATIENCE, left))
    spared = procfs.cgroup(last) if last else ""
    _kill_all(others, cgroups, [path for path in cgroups.left() if path != spared])
    others.close()
    _kill_all(Killer(is_due), cgroups, cgroups.left())
    for path in cgroups.left():
        cgroups.remove(path)


class _Stuck:
    """Processes that cannot be killed, by PID and start."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[tuple[int, int], float] = {}

    def has(self, pid: int) -> bool:
        """Whether a process still lives so long after its first look-up here."""
        about = procfs.stat(pid)
        if about is None:
            return False
        now = time.monotonic()
        since = self._since.setdefault((pid, about.start_ticks), now)
        return now - since > self._patience


def _kill_all(killer: Killer, cgroups: Cgroups, paths: Sequence[str]) -> None:
    quiet = 0
    while quiet < QUIET_SWEEPS:
        for path in paths:
            cgroups.kill(path)
        found = killer.kill_each(_pids())
        if killer.chase(CHASES) or found:
            quiet = 0
            killer.wait(PATIENCE)
        else:
            quiet += 1


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
