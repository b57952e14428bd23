r"""Judges a signal to ``run``: whether the command got it too, and what it asks for.

A process (kill(1), a supervisor) sends its signal to us alone. The kernel sends those of
the terminal: Ctrl-C and Ctrl-\ go to its whole foreground group, which need not include
the command (``timeout`` makes a group of its own); a hangup goes to the leader of the
session alone, and to the others only when the leader ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

# Numbers as in signal(7): the same on every machine.
SIGHUP: Final = 1
SIGINT: Final = 2
SIGQUIT: Final = 3
SIGTERM: Final = 15
# Signals that are sent to end a process, even one with a handler. A process's second SIGHUP
# may ask for another reload.
_ENDING: Final = {SIGINT, SIGQUIT, SIGTERM}
# In seconds: two signals that are closer, and from the leader of our group, may be the same
# one: timeout(1) sends to its child, and to the group of both.
ONE_SIGNAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A signal that has reached us.

    Attributes:
        by_kernel: it was not sent by a process.
        leading: we are the leader of our session.
        together: the command is in our process group.
        taken: the command has a handler for it, or blocks it, as a reader of a signalfd does.
    """

    number: int
    by_kernel: bool
    leading: bool
    together: bool
    taken: bool

    @property
    def hangup(self) -> bool:
        """Whether our terminal has gone."""
        return self.by_kernel and self.number == SIGHUP

    @property
    def had(self) -> bool:
        """Whether the kernel has sent it to the command as well."""
        return self.by_kernel and self.together and not (self.hangup and self.leading)

    @property
    def insists(self) -> bool:
        """Whether a second signal like this kills a command that still runs.

        Not a command that handles Ctrl-C itself, as an interpreter's prompt does.
        """
        if self.number == SIGHUP:
            return not self.by_kernel and not self.taken
        return self.number in _ENDING and not (self.had and self.taken)


@dataclass(slots=True)
class Insistence:
    """When each kind of insisting signal first arrived, in seconds on one clock."""

    _first: dict[int, float] = field(default_factory=dict)

    def again(self, number: int, at: float, grace: float) -> float | None:
        """The seconds until the command must be killed; None for a first signal.

        Args:
            grace: the delay if the two signals are close; 0 if they cannot be the same one.
        """
        first = self._first.setdefault(number, at)
        if first == at:
            return None
        return grace if at - first < ONE_SIGNAL else 0.0
