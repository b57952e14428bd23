"""Forks of the broker that do for it what may hang: parts of it, as its guardian is.

They belong to no service, are on no record, and end without a word. One of them that
the kernel does not let end costs nobody anything but its place in the process table.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from broker.process import procfs
from broker.process.forked import be_alone, fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.process.cgroup import Cgroups

log = logging.getLogger(__name__)


class Parts:
    """Those that are our children.

    Args:
        cgroups: of the services, one of which we wait in: a part is in none.
    """

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._pids: set[int] = set()

    def begin(self, body: Callable[[int], None]) -> tuple[int, int]:
        """Make one; returns its PID and a descriptor to read from, which ends with it.

        Args:
            body: called in the fork with the descriptor to write to, and nothing else open.

        Raises:
            OSError: the system has no room for it.
        """

        def alone(report: int) -> None:
            self._cgroups.leave()
            be_alone(report)
            body(report)

        pid, fd = fork(alone)
        self._pids.add(pid)
        return pid, fd

    def __contains__(self, pid: object) -> bool:
        """Whether a PID is one of them, perhaps dead and not yet reaped."""
        return pid in self._pids

    def kill(self, pid: int) -> None:
        """Kill one, if it is there; in the kernel's hands it may stay."""
        if pid in self._pids:
            os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill all that there are."""
        for pid in self._pids:
            self.kill(pid)

    def reaped(self, pid: int) -> bool:
        """Take note that a child of ours is gone; False if it was none of them."""
        if pid not in self._pids:
            return False
        self._pids.remove(pid)
        return True

    def close(self) -> None:
        """Say which are left, of those that have been killed."""
        left = [pid for pid in self._pids if procfs.alive(pid)]
        if left:
            log.error("processes that cannot be ended are left: %s", left)
