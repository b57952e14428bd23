"""What an end waits for: said when it takes so long that people wonder."""

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
    """One line in the log for each process that lives, the first of them at least."""
    left = [pid for pid in pids if procfs.alive(pid)]
    for pid in left[:_MOST]:
        say(f"waiting for {supervisor.service_of(pid) or '-'}  {described(pid)}")
    if len(left) > _MOST:
        say(f"waiting for {len(left) - _MOST} more processes")


def described(pid: int) -> str:
    """PID and command, as in the list of leaks, on one line."""
    command = printable(" ".join(procfs.command(pid)))
    return f"pid {pid}  {command[:_LONGEST]}{'…' * (len(command) > _LONGEST)}"


def say(text: str) -> None:
    """A line in the log, if standard error takes one at once.

    Nobody need read it at a logout, or a terminal may be stopped: the end would wait for that.
    """
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in poll.poll(0)):
        log.warning("%s", text)
