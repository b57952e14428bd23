"""The one owner of wait: notices dead children, identifies them, then reaps.

SIGCHLD is blocked and read from a signalfd: a signal handler in Python costs a
call for each death, and asyncio's prints a traceback when its pipe is full.
Signals coalesce, so their number means nothing: each wake-up reaps to the end.

A child is looked at with WNOWAIT first. While it is a zombie its PID cannot be
reused, and its marks can be read; once it is reaped they are gone. Reaping ends
only with ECHILD or "none dead".
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.core.attribution import Origin
from broker.core.exits import Exit
from broker.core.processes import Usage
from broker.errors import KernelRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.processes import Process

# How many children one turn of the event loop reaps: some 5 ms of work, so that
# the bus is served in the middle of a storm.
BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Death:
    """A child that was reaped."""

    pid: int
    exit: Exit
    usage: Usage


def check() -> None:
    """Try the system calls of reaping, before there is a child to reap.

    Raises:
        KernelRefused: a filter forbids it.
    """
    try:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        with contextlib.suppress(ChildProcessError):
            os.wait4(os.getpid(), os.WNOHANG)  # no child of ours, so none is reaped
    except OSError as e:
        raise KernelRefused(f"cannot wait for processes: {e.strerror}") from e


def reap(identify: Callable[[int], None], on_death: Callable[[Death], None]) -> bool:
    """Reap up to a batch of dead children.

    Args:
        identify: called with each child's PID while it is still a zombie.
        on_death: called after the child was reaped.

    Returns:
        whether none is left: False asks for another turn.
    """
    for _ in range(BATCH):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if found is None:
            return True
        try:
            identify(found.si_pid)
        finally:
            # The head of the kernel's list stays the same until it is reaped:
            # an error above must not block all others behind it.
            _, _, used = os.wait4(found.si_pid, 0)
            on_death(
                Death(
                    found.si_pid,
                    Exit(int(found.si_code), found.si_status),
                    Usage(
                        round(used.ru_utime * 1_000_000),
                        round(used.ru_stime * 1_000_000),
                        used.ru_maxrss * 1024,
                    ),
                )
            )
    return False


def without_inherited_peak(usage: Usage, process: Process) -> Usage:
    """The usage without a peak of memory that is our own.

    posix_spawn's child runs on our memory until it executes, and the kernel
    keeps the peak over exec: a small service would show the broker's size.
    """
    if process.origin is Origin.SPAWNED:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if usage.max_rss <= own:
            return Usage(usage.user, usage.system, 0)
    return usage
