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
import logging
import os
import signal
from resource import RLIMIT_RSS
from typing import TYPE_CHECKING, Final, NoReturn

from broker.core.start_limit import StartLimit
from broker.process import kernel, procfs, spare, tag
from broker.process.killer import Killer, has_ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.clock import Instant
    from broker.core.exits import Exit
    from broker.process.cgroup import Cgroups
    from broker.process.tag import Range

log = logging.getLogger(__name__)

# What ps shows in the place of the broker's name; the kernel takes 15 bytes.
NAME: Final = "broker-guardian"
# Whoever ends guardians on purpose gets no more than so many, within so many microseconds.
LOSSES: Final = 5
LOSSES_INTERVAL: Final = 10_000_000
# So many sweeps in a row must find nothing alive.
QUIET_SWEEPS: Final = 2
# How often the newest processes are looked at in a sweep, at the most: some milliseconds.
CHASES: Final = 256
# How long to wait for what was killed last before all are searched again, in
# milliseconds. In the kernel's hands a process may stay for longer than that.
PATIENCE: Final = 50


class Guardian:
    """The process that waits for our end.

    Attributes:
        pid: of a child of ours; 0 if there is none.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._is_ours: Callable[[int], bool] | None = None
        self._losses = StartLimit(LOSSES, LOSSES_INTERVAL)

    def begin(self, tags: Range | None, cgroups: Cgroups) -> None:
        """Guard all that is started from now on; said in the log if that cannot be done.

        Args:
            tags: those that it will be given; None if it is in ``cgroups``, or has no mark.
        """
        instance = tag.draw_instance() if tags else None
        if tags and instance:
            self._is_ours = by_tag(tags, instance)
        elif cgroups.telling:
            self._is_ours = by_cgroup(cgroups)
        else:
            # What bears a tag alone may be another broker's.
            log.warning("what is started cannot be marked: if we are killed, it stays")
            return
        self._cgroups = cgroups
        self._fork()

    def _fork(self) -> None:
        assert self._is_ours is not None
        try:
            broker = os.pidfd_open(os.getpid())
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    _be_guardian(broker, self._is_ours, self._cgroups)
            finally:
                os.close(broker)
        except OSError as e:
            log.error("no guardian: if we are killed, what is started stays: %s", e.strerror)

    def knows(self, pid: int) -> bool:
        """Whether a process bears marks that tell it from every other broker's."""
        return self._is_ours is not None and self._is_ours(pid)

    def lost(self, how: Exit, now: Instant) -> None:
        """It was reaped, though nobody but we should end it: there is another."""
        self.pid = 0
        self._losses.failed(now.monotonic)
        again = self._losses.hit(now.monotonic)
        log.error(
            "guardian lost (code %d, status %d); %s",
            how.code,
            how.status,
            "if we are killed, what is started stays" if again else "there is another",
        )
        if not again:
            self._fork()

    def end(self) -> None:
        """End and reap it: the last thing that is done, when nothing is left to guard."""
        if self.pid:
            # Our own child, which nobody else reaps any more.
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


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
        has_ended(broker, None)
        take_down(Killer(is_ours), cgroups)
    finally:
        os._exit(0)


def _detach(broker: int) -> None:
    """Have nothing to do with the broker's terminal, files and signals."""
    os.setsid()
    kernel.set_name(NAME)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    spare.let_go()
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


def take_down(killer: Killer, cgroups: Cgroups) -> None:
    """Returns when nothing is left that we may kill, and no cgroup either."""
    quiet = 0
    while quiet < QUIET_SWEEPS:
        for path in cgroups.left():
            cgroups.kill(path)
        found = killer.kill_each(int(name) for name in os.listdir("/proc") if name.isdigit())
        if killer.chase(CHASES) or found:
            quiet = 0
            killer.wait(PATIENCE)
        else:
            quiet += 1
    for path in cgroups.left():
        cgroups.remove(path)
