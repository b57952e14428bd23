"""The clock for people may be set back: it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import example, given
from hypothesis import strategies as st

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.service import Service
from broker.core.start_limit import StartLimit
from tests.core.test_transitions import EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.core.events import Effect

# What comes by itself is told when it was asked for.
GIVEN: Final = sorted(set(EVENTS) - {"spawned", "spawn refused", "timer fired"})
STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from([*GIVEN, "time passes"]),
        st.integers(0, 4_000_000),
        st.integers(-(1 << 50), 1 << 50),
    ),
    max_size=30,
)


def life(steps: Sequence[tuple[str, int, int]], *, jumping: bool) -> list[object]:
    """All that a service does, on a clock that is right or on one that is set at each step."""
    service = Service("org.example.Echo", StartLimit(2, 10_000_000), 25.0, 5.0)
    armed: ev.Timer | None = None
    monotonic = 1_000_000
    done: list[object] = []

    def handle(event: ev.Event, now: Instant) -> None:
        nonlocal armed
        effects: list[Effect] = list(service.handle(event, now))
        found = [shown(each) for each in effects]
        done.append((service.state, service.activation_usec, found))
        for effect in effects:
            if isinstance(effect, ev.ArmTimer):
                armed = effect.timer
            elif isinstance(effect, ev.CancelTimer):
                armed = None
            elif isinstance(effect, ev.Spawn):
                handle(ev.Spawned(10, now), now)

    for name, step, jump in steps:
        monotonic += step
        now = Instant(monotonic + (jump if jumping else 0), monotonic)
        if name != "time passes":
            handle(EVENTS[name], now)
        elif armed is not None:
            timer, armed = armed, None
            handle(ev.TimerFired(timer), now)
    return done


def shown(effect: Effect) -> str:
    """An effect, without the identity of what is in it."""
    if isinstance(effect, ev.FailActivation):
        return f"{effect.tokens} {type(effect.error)} {effect.error}"
    return repr(effect)


FAILURES: Final = [("requested", 0, 0), ("all gone", 1000, 1 << 50)] * 3


@given(STEPS)
@example([("requested", 0, 0), ("own process takes the name", 5000, -(1 << 40))])
# Too many in a short time, and the clock of the day says that it was a long one.
@example(FAILURES)
def test_nothing_depends_on_the_time_of_day(steps: Sequence[tuple[str, int, int]]) -> None:
    assert life(steps, jumping=True) == life(steps, jumping=False)
