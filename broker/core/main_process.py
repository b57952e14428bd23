"""The main process of a service: its PID, its start and its exit."""

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
    """The current main process, or the last one after its end.

    Attributes:
        pid: 0 after its end.
        last_pid: the same, kept after its end.
        exit, ended: UNKNOWN_EXIT and NEVER while it lives.
    """

    pid: int = 0
    last_pid: int = 0
    exit: Exit = UNKNOWN_EXIT
    started: Instant = NEVER
    ended: Instant = NEVER

    def become(self, pid: int, started: Instant) -> None:
        """Another process is the main one from now on."""
        self.pid = self.last_pid = pid
        self.started = started
        self.exit, self.ended = UNKNOWN_EXIT, NEVER

    def end(self, end: Exit, at: Instant) -> None:
        """The main process has ended."""
        self.pid = 0
        self.exit, self.ended = end, at
