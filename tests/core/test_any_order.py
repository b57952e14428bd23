"""Events in any order, twice, late, and about nobody: each activation still ends, once.

``test_stateful.py`` tells what is true in a world where bus and kernel keep their
word. Here they do not, so little is said of what the service makes of it; but no
caller is forgotten or told twice, and no timer runs that nothing waits for.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.service import Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.errors import SpawnExecFailed

if TYPE_CHECKING:
    from broker.core.events import Effect, Event

# Few, so that one event is about what another one was about.
PIDS: Final = st.integers(10, 12)
STARTS: Final = st.sampled_from([Instant(1, 1), Instant(2, 2)])
OWNERS: Final = st.sampled_from([":1.1", ":1.2"])
EXITS: Final = st.sampled_from([Exit(0, 0), Exit(1, 0), Exit(1, 3), Exit(2, 15), Exit(3, 6)])
EVENTS: Final = st.one_of(
    st.builds(
        ev.NameAcquired,
        OWNERS,
        st.one_of(st.just(0), PIDS),
        st.sampled_from(OwnerKind),
        STARTS,
        st.booleans(),
    ),
    st.builds(ev.NameLost),
    st.builds(ev.ProcessExited, PIDS, STARTS, EXITS, st.booleans()),
    st.builds(ev.Emptied, st.booleans()),
    st.builds(ev.OwnerConfirmed, st.one_of(st.just(""), OWNERS)),
    st.builds(ev.TimerFired, st.sampled_from(Timer)),
    st.builds(ev.Signalled),
    st.builds(ev.OnlyServing),
    st.builds(ev.ResetFailed),
)
TIMERS: Final = {
    State.START: {Timer.ACTIVATION, Timer.HANDOVER},
    State.STOP_SIGTERM: {Timer.SERVING, Timer.STOP},
    State.STOP_SIGKILL: {Timer.KILL},
}
NOBODY: Final = ev.OwnerConfirmed("")


class AnyOrder(RuleBasedStateMachine):
    """What carries out the effects; nothing else is kept from happening."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service("org.example.Echo", StartLimit(3, 30), 25.0, 5.0)
        self.tick = 0
        self.tokens = 0
        self.settled: Counter[object] = Counter()
        self.spawns = 0
        self.refuse = False
        self.pid = 10
        self.timer: Timer | None = None
        self.questions = 0
        self.stops = 0
        self.closing = False

    def give(self, event: Event) -> None:
        """Hand it over, and do what it leads to."""
        self.tick += 1
        for effect in self.service.handle(event, Instant(self.tick, self.tick)):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """As the activator does."""
        match effect:
            case ev.Spawn():
                assert not self.closing
                self.spawns += 1
                refused = ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED)
                self.give(refused if self.refuse else ev.Spawned(self.pid, Instant(1, 1)))
            case ev.ArmTimer(timer):
                assert self.timer is None
                self.timer = timer
            case ev.CancelTimer():
                self.timer = None
            case ev.ConfirmOwner():
                self.questions += 1
            case ev.CompleteActivation(tokens, _) | ev.FailActivation(tokens, _):
                self.settled.update(tokens)
            case ev.SignalAll():
                assert self.service.state in {State.STOP_SIGTERM, State.STOP_SIGKILL}
            case ev.CompleteStop():
                self.stops = 0

    @rule(pid=PIDS, refuse=st.booleans())
    def request(self, pid: int, *, refuse: bool) -> None:
        """Someone wants the name; what its process would be like, if it came to that."""
        self.pid, self.refuse = pid, refuse
        self.tokens += 1
        self.give(ev.Requested(self.tokens))

    @rule(event=EVENTS, times=st.integers(1, 2))
    def anything(self, event: Event, times: int) -> None:
        """Something that may have happened long ago, or never, or be told once more."""
        for _ in range(times):
            self.give(event)

    @rule(owner=st.one_of(st.just(""), OWNERS))
    def answer(self, owner: str) -> None:
        """The bus answers a question that it was asked."""
        if self.questions:
            self.questions -= 1
            self.give(ev.OwnerConfirmed(owner))

    @rule()
    def time_passes(self) -> None:
        """The timer, if it runs, runs out."""
        if self.timer is not None:
            timer, self.timer = self.timer, None
            self.give(ev.TimerFired(timer))

    @rule()
    def stop(self) -> None:
        """Somebody wants its end."""
        self.stops += 1
        self.give(ev.StopRequested())

    @rule(sure=st.integers(0, 5))
    def close(self, sure: int) -> None:
        """The session ends: seldom, since little can happen after that."""
        if sure == 0:
            self.closing = True
            self.give(ev.Closing())

    @invariant()
    def nobody_is_told_twice(self) -> None:
        """Not even when everything else is told twice."""
        assert all(count == 1 for count in self.settled.values())
        assert set(self.settled) <= set(range(1, self.tokens + 1))

    @invariant()
    def those_who_wait_wait_for_something(self) -> None:
        """For a timer, or for an answer that is owed to them."""
        if len(self.settled) < self.tokens:
            owned = self.service.state in {State.RUNNING, State.EXTERNAL}
            assert self.timer is not None or (owned and self.questions)

    @invariant()
    def a_timer_runs_where_one_is_waited_for(self) -> None:
        """And none outlives what it was armed for."""
        assert self.timer in TIMERS.get(self.service.state, {None})

    @invariant()
    def an_activation_is_spawned_once(self) -> None:
        """And counted."""
        assert self.spawns == self.service.activations

    @invariant()
    def stops_are_waited_for(self) -> None:
        """Whoever asked for the end has been told, or it is being brought about."""
        assert not self.stops or self.timer in {Timer.STOP, Timer.KILL}

    def teardown(self) -> None:
        """The name goes, the processes too, the bus answers: then it is over for everybody."""
        for _ in range(20):
            self.give(ev.NameLost())
            while self.questions:
                self.answer("")
            self.time_passes()
            self.give(ev.Emptied(all_gone=True))
        assert self.service.state in {State.DEAD, State.FAILED}
        assert set(self.settled) == set(range(1, self.tokens + 1))
        assert self.timer is None
        assert not self.stops
        assert not self.service.stoppable


# A failure takes its time until it is told in the shortest way.
TestAnyOrder = pytest.mark.timeout(600)(AnyOrder.TestCase)
TestAnyOrder.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
