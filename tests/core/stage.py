"""A stage for a service: events as short as they can be told, and who remembers the effects.

PIDs stand for processes here: 10 is the one that is spawned first, and a process
was started at the moment that is its PID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import Effect, Event, OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.service import Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.errors import (
    DBusError,
    SpawnExecFailed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "org.example.Echo"
BURST: Final = 3
INTERVAL: Final = 60  # seconds
SECOND: Final = 1_000_000
HANDOVER: Final = 5.0

EXIT_0: Final = Exit(1, 0)
EXIT_3: Final = Exit(1, 3)
HUP: Final = Exit(2, 1)
KILL: Final = Exit(2, 9)
SEGV: Final = Exit(2, 11)
TERM: Final = Exit(2, 15)
ABORT_DUMPED: Final = Exit(3, 6)

# -- events, as short as they can be told ------------------------------------------

FIRST: Final = ev.Requested("first")
SECOND_REQUEST: Final = ev.Requested("second")
LOST: Final = ev.NameLost()
ALL_GONE: Final = ev.Emptied(all_gone=True)
OLDER_LEFT: Final = ev.Emptied(all_gone=False)
STOP: Final = ev.StopRequested()
ONLY_SERVING: Final = ev.OnlyServing()
SIGNALLED: Final = ev.Signalled()
CLOSING: Final = ev.Closing()
RESET: Final = ev.ResetFailed()
NOBODY: Final = ev.OwnerConfirmed("")


def born(pid: int) -> Instant:
    return Instant(pid, pid)


def spawned(pid: int = 10) -> Event:
    return ev.Spawned(pid, born(pid))


def took(
    pid: int = 10, kind: OwnerKind = OwnerKind.OWN, *, current: bool | None = None
) -> ev.NameAcquired:
    current = kind is OwnerKind.OWN if current is None else current
    return ev.NameAcquired(f":1.{pid}", pid, kind, born(pid), current)


def took_and_went(seconds: int) -> ev.NameAcquired:
    """The bus has no PID for a connection that is closed; it said so at that moment."""
    at = seconds * SECOND
    return ev.NameAcquired(":1.99", 0, OwnerKind.OWN, Instant(at, at), current=True)


def ended(pid: int, end: Exit, *, current: bool = True) -> Event:
    return ev.ProcessExited(pid, born(pid), end, current)


def owned_by(pid: int = 10) -> Event:
    return ev.OwnerConfirmed(f":1.{pid}")


def fires(timer: Timer) -> Event:
    return ev.TimerFired(timer)


def refused() -> Event:
    return ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED)


TAKEN_BY_FOREIGN: Final = took(99, OwnerKind.FOREIGN)
TAKEN_BY_OTHER: Final = took(98, OwnerKind.OTHER)


def served(taken: ev.NameAcquired) -> list[Event]:
    """A start is served; by a process that is not its own, when the bus has confirmed it."""
    return [taken] if taken.current else [taken, ev.OwnerConfirmed(taken.owner)]


# -- effects -----------------------------------------------------------------------

ASK: Final = [ev.ConfirmOwner()]
SPAWN: Final = [ev.Spawn()]
SIGTERM_ALL: Final = [ev.ArmTimer(Timer.STOP), ev.SignalAll(15)]
# To a failed activation, when the bus has said whom it serves.
SPARE: Final = [ev.ArmTimer(Timer.SERVING)]
SIGTERM_OTHERS: Final = [ev.CancelTimer(), ev.ArmTimer(Timer.STOP), ev.SignalAll(15, sparing=True)]
SIGKILL_OTHERS: Final = [
    ev.SignalAll(9, sparing=True),
    ev.CancelTimer(),
    ev.ArmTimer(Timer.KILL),
]
SIGKILL_ALL: Final = [ev.SignalAll(9), ev.CancelTimer(), ev.ArmTimer(Timer.KILL)]
STOPPED: Final = [ev.CancelTimer(), ev.CompleteStop()]
HANDED_OVER: Final = [ev.CancelTimer(), ev.ArmTimer(Timer.HANDOVER)]


def completed(*tokens: str) -> ev.CompleteActivation:
    return ev.CompleteActivation(tokens)


class Play:
    """A service on a stage: takes events, a second apart, and remembers all effects."""

    def __init__(self, *events: Event, handover: float = HANDOVER) -> None:
        self.service = Service(NAME, StartLimit(BURST, INTERVAL * SECOND), 25.0, handover)
        self.seconds = 1000
        self.effects: list[Effect] = []
        self.do(*events)

    @property
    def now(self) -> Instant:
        return Instant(self.seconds * SECOND + 7, self.seconds * SECOND)

    def do(self, *events: Event) -> list[Effect]:
        """Give it events; returns what the last of them led to."""
        effects: list[Effect] = []
        for event in events:
            self.seconds += 1
            effects = self.service.handle(event, self.now)
            self.effects += effects
        return effects

    @property
    def state(self) -> State:
        return self.service.state

    @property
    def end(self) -> tuple[State, Result, int]:
        """What is left of a life: state, result, number of failures."""
        return self.service.state, self.service.result, self.service.failures

    @property
    def exec_main(self) -> tuple[int, Exit]:
        return self.service.main.last_pid, self.service.main.exit


def the_failure(effects: Sequence[Effect]) -> ev.FailActivation:
    (failure,) = [each for each in effects if isinstance(each, ev.FailActivation)]
    return failure


def the_error(effects: Sequence[Effect]) -> DBusError:
    return the_failure(effects).error


# The shortest way into each state.
WAYS: Final[dict[State, Sequence[Event]]] = {
    State.DEAD: [],
    State.START: [FIRST, spawned()],
    State.RUNNING: [FIRST, spawned(), took()],
    # Somebody's process has the name, and one of ours is there as well.
    State.EXTERNAL: [FIRST, spawned(), *served(TAKEN_BY_FOREIGN)],
    State.LINGERING: [FIRST, spawned(), took(), LOST],
    State.STOP_SIGTERM: [FIRST, spawned(), took(), STOP],
    State.STOP_SIGKILL: [FIRST, spawned(), took(), STOP, fires(Timer.STOP)],
    State.FAILED: [FIRST, spawned(), ended(10, EXIT_3), ALL_GONE, NOBODY, NOBODY],
}


def in_state(state: State) -> Play:
    return Play(*WAYS[state])


def starting() -> Play:
    return in_state(State.START)


def running() -> Play:
    return in_state(State.RUNNING)


def external() -> Play:
    return in_state(State.EXTERNAL)


def lingering() -> Play:
    return in_state(State.LINGERING)


def stopping() -> Play:
    return in_state(State.STOP_SIGTERM)
