"""The process behind a connection: it may end, and its PID become another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from broker.process import procfs


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when the bus named it.

    Attributes:
        pid: 0 for none, or one that is out of our sight.
        start_ticks: by which it is told from a later one with its PID; 0 if not known.
    """

    pid: int
    start_ticks: int

    @classmethod
    def seen(cls, pid: int) -> Self:
        """The process that has a PID now."""
        about = procfs.stat(pid) if pid else None
        return cls(pid, about.start_ticks if about else 0)

    def command(self) -> tuple[str, ...]:
        """Its command line, cut to 4 KiB, or its name in brackets; empty if it has gone.

        It is a stranger's, but costs us no wait for its disks: of a command line that it has
        laid over a mapped file the kernel reads nothing (since 4.17, for this reason).
        """
        words = procfs.command(self.pid)
        # Not before that: who has the PID now had it then as well.
        about = procfs.stat(self.pid)
        return words if about and about.start_ticks == self.start_ticks else ()


NOBODY: Final = Peer(0, 0)
