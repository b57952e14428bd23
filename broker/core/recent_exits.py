"""The newest exits of a service's processes: one may turn out to be the owner's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.core.clock import Instant
    from broker.core.exits import Exit

# A service may have a million children, and no activation needs an owner that late.
RECENT: Final = 16


@dataclass(slots=True)
class RecentExit:
    """The exit of a process; ``activation``: its number, 0 if the exit has no consequence."""

    exit: Exit
    at: Instant
    activation: int


@dataclass(slots=True)
class RecentExits:
    """The exits by PID and start, oldest first."""

    _exits: dict[tuple[int, Instant], RecentExit] = field(default_factory=dict)

    def add(self, pid: int, started: Instant, end: RecentExit) -> None:
        """Remember one more, and drop the oldest."""
        self._exits[pid, started] = end
        if len(self._exits) > RECENT:
            del self._exits[next(iter(self._exits))]

    def get(self, pid: int, started: Instant) -> RecentExit | None:
        """The exit of a process; None if it lives, or its exit was dropped."""
        return self._exits.get((pid, started))

    def bad(self, activation: int) -> Iterator[tuple[int, Instant, RecentExit]]:
        """PID, start and exit of an activation's processes with an exit other than 0."""
        for (pid, started), end in self._exits.items():
            if end.activation == activation and not end.exit.zero:
                yield pid, started, end
