"""The process that stands for a service: which one it is, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.core.clock import NEVER
from broker.core.exits import UNKNOWN_EXIT

if TYPE_CHECKING:
    from broker.core.clock import Instant
    from broker.core.exits import Exit


@dataclass(slots=True)
class MainProcess:
    """One after the other, in a service's life; remembered until there is another.

    Attributes:
        pid: 0 when it has ended.
        last_pid: the same, also then.
        exit, ended: unknown and never while it lives.
    """

    pid: int = 0
    last_pid: int = 0
    exit: Exit = UNKNOWN_EXIT
    started: Instant = NEVER
    ended: Instant = NEVER

    def become(self, pid: int, started: Instant) -> None:
        """It is another one from now on."""
        self.pid = self.last_pid = pid
        self.started = started
        self.exit, self.ended = UNKNOWN_EXIT, NEVER

    def end(self, end: Exit, at: Instant) -> None:
        """It has ended."""
        self.pid = 0
        self.exit, self.ended = end, at
