"""Parts of the broker: forks of it for operations that may hang.

Like the guardian, they belong to no service, are not on record, and end silently. A part
that hangs in the kernel costs only its place in the process table.
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
    """The parts that are our children.

    Args:
        cgroups: the services'; we wait in one of them, but a part belongs in none.
    """

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._pids: set[int] = set()

    def begin(self, body: Callable[[int], None]) -> tuple[int, int]:
        """Make a part; returns its PID and a descriptor to read from, which ends with it.

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
        """Whether a PID is a part's, perhaps dead and not yet reaped."""
        return pid in self._pids

    def kill(self, pid: int) -> None:
        """Kill a part, if it exists; it may still hang in the kernel."""
        if pid in self._pids:
            os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill all parts."""
        for pid in self._pids:
            self.kill(pid)

    def reaped(self, pid: int) -> bool:
        """Note the death of a child; False if it was not a part."""
        if pid not in self._pids:
            return False
        self._pids.remove(pid)
        return True

    def close(self) -> None:
        """Log the killed parts that are still left."""
        left = [pid for pid in self._pids if procfs.alive(pid)]
        if left:
            log.error("processes that cannot be ended are left: %s", left)
