r"""A signal that has reached ``run``: whether the command has had it too, and what it asks for.

Somebody's signal (kill(1), a supervisor) is sent to us alone. The kernel's are the
terminal's: Ctrl-C and Ctrl-\ go to its whole foreground group, in which the command need
not be (``timeout`` makes a group of its own); of a hangup it tells the leader of the
session alone, and everybody else only when that one ends.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Final

# Sent to end something, whatever handler that has. The second SIGHUP of somebody's may mean
# another reload.
_ENDING: Final = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
# In seconds: two that are closer, and from the leader of our group, may be one that came two
# ways: timeout(1) sends to its child, and to the group that both are in.
ONE_SIGNAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A signal that has reached us.

    Attributes:
        by_kernel: it was not sent by a process.
        leading: we are the leader of our session.
        together: the command is in our process group.
        taken: the command has a handler for it, or blocks it, as one does that reads it from a
            signalfd.
    """

    number: int
    by_kernel: bool
    leading: bool
    together: bool
    taken: bool

    @property
    def hangup(self) -> bool:
        """Whether our terminal has gone."""
        return self.by_kernel and self.number == signal.SIGHUP

    @property
    def had(self) -> bool:
        """Whether the kernel has sent it to the command as well."""
        return self.by_kernel and self.together and not (self.hangup and self.leading)

    @property
    def insists(self) -> bool:
        """Whether a second one forces the end of a command that is still there.

        Not of one that handles Ctrl-C itself, as an interpreter's prompt does.
        """
        if self.number == signal.SIGHUP:
            return not self.by_kernel and not self.taken
        return self.number in _ENDING and not (self.had and self.taken)


@dataclass(slots=True)
class Insistence:
    """Of signals that insist: when each kind has come first, in seconds on one clock."""

    _first: dict[int, float] = field(default_factory=dict)

    def again(self, number: int, at: float, grace: float) -> float | None:
        """In how many seconds the command is to be killed; None if that is not asked for yet.

        Args:
            grace: what it has if the two are close; 0 if they cannot be one.
        """
        first = self._first.setdefault(number, at)
        if first == at:
            return None
        return grace if at - first < ONE_SIGNAL else 0.0
