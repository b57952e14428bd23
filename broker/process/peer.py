"""The process behind a connection: it may end, and its PID be reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from broker.process import procfs


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when the bus named it.

    Attributes:
        pid: 0 for none, or for a process that we cannot see.
        start_ticks: tells it from a later process with its PID; 0 if unknown.
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

        Even a hostile process cannot make us wait for its disks: the kernel reads nothing of a
        command line that was laid over a mapped file (since 4.17, for this reason).
        """
        words = procfs.command(self.pid)
        # Checked only now: if it has the PID now, it had it during the read as well.
        about = procfs.stat(self.pid)
        return words if about and about.start_ticks == self.start_ticks else ()


NOBODY: Final = Peer(0, 0)
