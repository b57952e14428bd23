"""The newest ends of a service's processes: one may turn out to have been the owner's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.core.clock import Instant
    from broker.core.exits import Exit

# A service may have a million children, and nobody waits for so late an owner.
RECENT: Final = 16


@dataclass(slots=True)
class RecentExit:
    """How and when a process ended; ``activation``: its number, 0 if nothing can follow from it."""

    exit: Exit
    at: Instant
    activation: int


@dataclass(slots=True)
class RecentExits:
    """By PID and start, oldest first."""

    _exits: dict[tuple[int, Instant], RecentExit] = field(default_factory=dict)

    def add(self, pid: int, started: Instant, end: RecentExit) -> None:
        """Remember one more, and forget the oldest for it."""
        self._exits[pid, started] = end
        if len(self._exits) > RECENT:
            del self._exits[next(iter(self._exits))]

    def get(self, pid: int, started: Instant) -> RecentExit | None:
        """The end of a process; None: it lives, or nobody remembers."""
        return self._exits.get((pid, started))

    def bad(self, activation: int) -> Iterator[tuple[int, Instant, RecentExit]]:
        """PID, start and end of each process of an activation that ended other than with 0."""
        for (pid, started), end in self._exits.items():
            if end.activation == activation and not end.exit.zero:
                yield pid, started, end
