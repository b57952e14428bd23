"""Logs which processes a slow shutdown waits for, before people wonder."""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Final

from broker.core.printable import printable
from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.process.supervisor import Supervisor

log = logging.getLogger(__name__)

# In seconds.
SAID_AFTER: Final = 1.0
# Lines, and characters of a command in each.
_MOST: Final = 10
_LONGEST: Final = 120


def name_each(supervisor: Supervisor, pids: Iterable[int]) -> None:
    """Log one line for each live process, up to ten of them."""
    left = [pid for pid in pids if procfs.alive(pid)]
    for pid in left[:_MOST]:
        say(f"waiting for {supervisor.service_of(pid) or '-'}  {described(pid)}")
    if len(left) > _MOST:
        say(f"waiting for {len(left) - _MOST} more processes")


def described(pid: int) -> str:
    """PID and command on one line, as in the list of leaks."""
    command = printable(" ".join(procfs.command(pid)))
    return f"pid {pid}  {command[:_LONGEST]}{'…' * (len(command) > _LONGEST)}"


def say(text: str) -> None:
    """Log a line, if standard error takes one at once.

    At a logout its reader may be gone, or the terminal stopped: the shutdown must not wait.
    """
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in poll.poll(0)):
        log.warning("%s", text)
