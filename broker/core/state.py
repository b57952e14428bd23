"""The states of a service, in the D-Bus interface's words, and the times of their changes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.core.clock import NEVER

if TYPE_CHECKING:
    from broker.core.clock import Instant


class State(enum.Enum):
    """A service's state as (ActiveState, SubState), in systemd's words where it has them."""

    DEAD = ("inactive", "dead")
    START = ("activating", "start")
    RUNNING = ("active", "running")
    EXTERNAL = ("active", "external")
    LINGERING = ("deactivating", "lingering")
    STOP_SIGTERM = ("deactivating", "stop-sigterm")
    STOP_SIGKILL = ("deactivating", "stop-sigkill")
    FAILED = ("failed", "failed")


_INACTIVE: Final = (State.DEAD, State.FAILED)
_ACTIVE: Final = (State.RUNNING, State.EXTERNAL)


@dataclass(slots=True)
class Changes:
    """When the state last changed, and when it last entered or left active and inactive.

    The names are those of systemd's properties.
    """

    state: Instant = NEVER
    inactive_exit: Instant = NEVER
    active_enter: Instant = NEVER
    active_exit: Instant = NEVER
    inactive_enter: Instant = NEVER

    def note(self, before: State, after: State, now: Instant) -> None:
        """Compare the states before and after an event; they may be the same."""
        if after is before:
            return
        self.state = now
        if (before in _INACTIVE) is not (after in _INACTIVE):
            if before in _INACTIVE:
                self.inactive_exit = now
            else:
                self.inactive_enter = now
        if (before in _ACTIVE) is not (after in _ACTIVE):
            if before in _ACTIVE:
                self.active_exit = now
            else:
                self.active_enter = now
