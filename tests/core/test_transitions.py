"""The table of transitions: total, and which state follows on which event.

What a transition does beyond that is in ``test_service_*.py``; that no order of
events leads astray is in ``test_stateful.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

import pytest

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.service import TRANSITIONS, Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.errors import SpawnExecFailed
from tests.core import diagram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.core.events import Event

BORN: Final = Instant(10, 10)
EVENT_TYPES: Final[tuple[type[Event], ...]] = get_args(ev.Event)

REQUEST: Final = ev.Requested("someone")
SPAWNED: Final = ev.Spawned(10, BORN)
NOBODY: Final = ev.OwnerConfirmed("")
TAKEN_BY_OTHER: Final = ev.NameAcquired(":1.98", 98, OwnerKind.OTHER, BORN, current=False)
CONFIRMED: Final = ev.OwnerConfirmed(":1.9")
TAKEN: Final = ev.NameAcquired(":1.7", 10, OwnerKind.OWN, BORN, current=True)
TAKEN_BY_DAEMON: Final = ev.NameAcquired(":1.8", 11, OwnerKind.OWN, BORN, current=True)
TAKEN_BY_FOREIGN: Final = ev.NameAcquired(":1.9", 99, OwnerKind.FOREIGN, BORN, current=False)
EXIT_3: Final = ev.ProcessExited(10, BORN, Exit(1, 3), current=True)
ALL_GONE: Final = ev.Emptied(all_gone=True)
TIME_IS_UP: Final = ev.TimerFired(Timer.ACTIVATION)

# A short way into each state on which a question to the bus is still open, so
# that an answer can come in every one of them.
STARTED: Final[list[Event]] = [REQUEST, SPAWNED]
WAYS: Final[dict[State, Sequence[Event]]] = {
    State.DEAD: [*STARTED, EXIT_3, ev.StopRequested(), ALL_GONE],
    State.START: [*STARTED, EXIT_3],
    State.RUNNING: [*STARTED, TAKEN, REQUEST],
    State.EXTERNAL: [*STARTED, TAKEN_BY_FOREIGN, CONFIRMED, REQUEST],
    State.LINGERING: [*STARTED, EXIT_3, TAKEN_BY_DAEMON, ev.NameLost()],
    State.STOP_SIGTERM: [*STARTED, EXIT_3, TIME_IS_UP],
    State.STOP_SIGKILL: [*STARTED, EXIT_3, TIME_IS_UP, ev.TimerFired(Timer.STOP)],
    State.FAILED: [*STARTED, EXIT_3, TIME_IS_UP, ALL_GONE],
}

EVENTS: Final[dict[str, Event]] = {
    "requested": REQUEST,
    "spawned": SPAWNED,
    "spawn refused": ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED),
    "own process takes the name": ev.NameAcquired(":1.12", 12, OwnerKind.OWN, BORN, current=True),
    "other service takes the name": ev.NameAcquired(
        ":1.98", 98, OwnerKind.OTHER, BORN, current=False
    ),
    "foreign process takes the name": TAKEN_BY_FOREIGN,
    "name lost": ev.NameLost(),
    "process exited": ev.ProcessExited(12, BORN, Exit(1, 0), current=True),
    "empty but for older ones": ev.Emptied(all_gone=False),
    "all gone": ALL_GONE,
    "owner confirmed": ev.OwnerConfirmed(":1.7"),
    "owner denied": NOBODY,
    "time for the name is up": TIME_IS_UP,
    "time for a handover is up": ev.TimerFired(Timer.HANDOVER),
    "bus has said who serves": ev.TimerFired(Timer.SERVING),
    "time for the end is up": ev.TimerFired(Timer.STOP),
    "time for another SIGKILL": ev.TimerFired(Timer.KILL),
    "stop requested": ev.StopRequested(),
    "only what serves is left": ev.OnlyServing(),
    "signalled": ev.Signalled(),
    "closing": ev.Closing(),
    "reset failed": ev.ResetFailed(),
}

# Every change of state that one event can bring; all else stays as it is.
CHANGES: Final = {
    (State.DEAD, "requested"): State.START,
    (State.DEAD, "other service takes the name"): State.RUNNING,
    (State.DEAD, "foreign process takes the name"): State.EXTERNAL,
    (State.FAILED, "requested"): State.START,
    (State.FAILED, "other service takes the name"): State.RUNNING,
    (State.FAILED, "foreign process takes the name"): State.EXTERNAL,
    (State.FAILED, "reset failed"): State.DEAD,
    (State.START, "spawn refused"): State.STOP_SIGTERM,
    (State.START, "own process takes the name"): State.RUNNING,
    (State.START, "owner denied"): State.STOP_SIGTERM,
    (State.START, "time for the name is up"): State.STOP_SIGTERM,
    (State.START, "stop requested"): State.STOP_SIGTERM,
    (State.START, "closing"): State.STOP_SIGTERM,
    (State.RUNNING, "foreign process takes the name"): State.EXTERNAL,
    # With somebody waiting, as here, what is lost is started anew.
    (State.RUNNING, "name lost"): State.START,
    (State.RUNNING, "owner denied"): State.START,
    (State.RUNNING, "stop requested"): State.STOP_SIGTERM,
    (State.EXTERNAL, "own process takes the name"): State.RUNNING,
    (State.EXTERNAL, "other service takes the name"): State.RUNNING,
    (State.EXTERNAL, "name lost"): State.START,
    (State.EXTERNAL, "owner denied"): State.START,
    (State.EXTERNAL, "stop requested"): State.STOP_SIGTERM,
    (State.LINGERING, "requested"): State.START,
    (State.LINGERING, "own process takes the name"): State.RUNNING,
    (State.LINGERING, "other service takes the name"): State.RUNNING,
    (State.LINGERING, "foreign process takes the name"): State.EXTERNAL,
    (State.LINGERING, "all gone"): State.DEAD,
    (State.LINGERING, "stop requested"): State.STOP_SIGTERM,
    (State.STOP_SIGTERM, "all gone"): State.FAILED,
    (State.STOP_SIGTERM, "only what serves is left"): State.LINGERING,
    (State.STOP_SIGTERM, "time for the end is up"): State.STOP_SIGKILL,
    (State.STOP_SIGTERM, "time for another SIGKILL"): State.STOP_SIGKILL,
    (State.STOP_SIGKILL, "all gone"): State.FAILED,
    (State.STOP_SIGKILL, "only what serves is left"): State.LINGERING,
    (State.STOP_SIGKILL, "stop requested"): State.STOP_SIGTERM,
}

# A spawn is answered before anything else can happen.
IMPOSSIBLE: Final = {
    (state, event)
    for state in State
    if state is not State.START
    for event in (ev.Spawned, ev.SpawnRefused)
}


def service_in(state: State) -> Service:
    service = Service("org.example.Echo", StartLimit(5, 10_000_000), 25.0, 5.0)
    for i, event in enumerate(WAYS[state]):
        service.handle(event, Instant(100 + i, 100 + i))
    assert service.state is state
    return service


def test_table_is_total() -> None:
    assert set(TRANSITIONS) == {(state, event) for state in State for event in EVENT_TYPES}
    assert len(EVENT_TYPES) == 14


def test_examples_here_are_of_every_type_of_event() -> None:
    assert {type(event) for event in EVENTS.values()} == set(EVENT_TYPES)


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("state", State)
def test_event_in_state(state: State, name: str) -> None:
    service, event = service_in(state), EVENTS[name]
    now = Instant(500, 500)
    if (state, type(event)) in IMPOSSIBLE:
        with pytest.raises(AssertionError, match=rf"org.example.Echo: .* in state {state.name}"):
            service.handle(event, now)
        return
    service.handle(event, now)
    assert service.state is CHANGES.get((state, name), state)
    assert (service.changes.state == now) == ((state, name) in CHANGES)


def test_the_picture_is_the_tables() -> None:
    assert diagram.README.read_text() == diagram.drawn()


def test_changes_are_changes() -> None:
    assert all(before is not after for (before, _), after in CHANGES.items())


def test_states_are_worded_as_the_interface_says() -> None:
    assert [state.value for state in State] == [
        ("inactive", "dead"),
        ("activating", "start"),
        ("active", "running"),
        ("active", "external"),
        ("deactivating", "lingering"),
        ("deactivating", "stop-sigterm"),
        ("deactivating", "stop-sigkill"),
        ("failed", "failed"),
    ]
