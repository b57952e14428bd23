"""A service's newest activations: when each was asked for, started, served, and was over."""

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

# A service that is started again and again, for ever, is remembered no longer than this.
KEPT: Final = 16
_OWNED: Final = (State.RUNNING, State.EXTERNAL)
_OVER: Final = (State.DEAD, State.FAILED, State.EXTERNAL)


@dataclass(slots=True)
class Activation:
    """One start of a service, with the time that it served.

    Attributes:
        number: among the service's activations, from 1 on.
        pid: of the process that was spawned; 0 if there was none.
        started: when that was spawned.
        owned: when the name was owned; never if it failed.
        ended: of one that failed, then; else when the service was at rest, the next start
            began, or somebody else had taken the name.
        result: why it failed, or why what it had started ended badly.
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
    """Oldest first; the newest may go on."""

    _activations: deque[Activation] = field(default_factory=lambda: deque(maxlen=KEPT))

    def __iter__(self) -> Iterator[Activation]:
        return iter(self._activations)

    def begin(self, number: int, result: Result, now: Instant) -> None:
        """A start begins; ``result`` is that of the one before."""
        self._end(result, now)
        self._activations.append(Activation(number, now))

    def spawned(self, pid: int, at: Instant) -> None:
        """The newest one has a process."""
        self._activations[-1].pid, self._activations[-1].started = pid, at

    def note(self, state: State, result: Result, now: Instant) -> None:
        """Take what an event has made of the service."""
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
            # The gate is shut in the face of the next one.
            if result is not Result.START_LIMIT_HIT:
                newest.result = result
