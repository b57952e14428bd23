"""A service's newest activations, each with its times of request, start, name and end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.core.clock import NEVER
from broker.core.exits import Result
from broker.core.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.core.clock import Instant

# How many activations of a service are remembered.
KEPT: Final = 16
_OWNED: Final = (State.RUNNING, State.EXTERNAL)
_OVER: Final = (State.DEAD, State.FAILED, State.EXTERNAL)


@dataclass(slots=True)
class Activation:
    """One start of a service, and the time that it served.

    Attributes:
        number: counts the service's activations from 1 on.
        pid: the spawned process; 0 for none.
        started: when it was spawned.
        owned: when the name was owned; NEVER if the activation failed.
        ended: when the activation failed; otherwise when the service was at rest, the next
            start began, or a foreign process had taken the name.
        result: why the activation failed, or why its processes ended badly.
    """

    number: int
    requested: Instant
    pid: int = 0
    started: Instant = NEVER
    owned: Instant = NEVER
    ended: Instant = NEVER
    result: Result = Result.SUCCESS


@dataclass(slots=True)
class History:
    """The activations, oldest first; the newest may still go on."""

    _activations: deque[Activation] = field(default_factory=lambda: deque(maxlen=KEPT))

    def __iter__(self) -> Iterator[Activation]:
        return iter(self._activations)

    def begin(self, number: int, result: Result, now: Instant) -> None:
        """A start begins; ``result`` is that of the previous activation."""
        self._end(result, now)
        self._activations.append(Activation(number, now))

    def spawned(self, pid: int, at: Instant) -> None:
        """The newest activation has a process."""
        self._activations[-1].pid, self._activations[-1].started = pid, at

    def note(self, state: State, result: Result, now: Instant) -> None:
        """Note the service's state after an event."""
        newest = self._open
        if newest is None or state is State.START:
            return
        if newest.owned is NEVER and state in _OWNED:
            newest.owned = now
        if newest.owned is NEVER or state in _OVER:
            self._end(result, now)

    @property
    def _open(self) -> Activation | None:
        newest = self._activations[-1] if self._activations else None
        return newest if newest and newest.ended is NEVER else None

    def _end(self, result: Result, now: Instant) -> None:
        if newest := self._open:
            newest.ended = now
            # The start limit refuses the next start, and says nothing about this one.
            if result is not Result.START_LIMIT_HIT:
                newest.result = result
