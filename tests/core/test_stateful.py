"""A service in a world that does whatever bus and kernel allow, in any order.

What a rule of this machine does is possible in reality; what must hold after it
follows from the rules on top of ``broker/core/service.py``. The world itself is
in ``world.py``.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from broker.core import events as ev
from broker.core.clock import NEVER
from broker.core.events import OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.state import State
from broker.core.transitions import SIGTERM
from tests.core.world import HANDOVER, STOPPING, TIMEOUT, Acquired, Answer, Lost, Proc, World

REST: Final = {State.DEAD, State.FAILED}
OWNED: Final = {State.RUNNING, State.EXTERNAL}
# Which timer may be armed, and must be, in which state.
TIMERS: Final = {
    State.START: {Timer.ACTIVATION, Timer.HANDOVER},
    State.STOP_SIGTERM: {Timer.SERVING, Timer.STOP},
    State.STOP_SIGKILL: {Timer.KILL},
}


EXITS: Final = st.sampled_from([Exit(1, 0), Exit(1, 3), Exit(2, 15), Exit(2, 11), Exit(3, 6)])
# Which of some things: small numbers shrink well, and modulo makes them fit.
PICK: Final = st.integers(0, 5)
# What people do, and how often as against each other.
WISHES: Final = st.sampled_from(
    [
        *["start"] * 3,
        *["wait"] * 2,
        *["stop"] * 2,
        "serve by hand",
        "serve by another",
        "remove the program",
        "send a signal",
        "reset",
        "end the session",
    ]
)


class Life(World):
    """What can happen, and what must hold after each step."""

    @initialize()
    def first_request(self) -> None:
        """Nothing interesting happens before one."""
        self.requested(self.new_token())

    @precondition(lambda self: self.owner is None and not self.engine_waits)
    @rule()
    def message(self) -> None:
        """Someone sends a message to the name that nobody has: the engine asks for it."""
        self.engine_waits = self.new_token()
        self.activate.append(self.engine_waits)

    @precondition(lambda self: self.activate)
    @rule()
    def hear_engine(self) -> None:
        """The engine's request arrives."""
        self.requested(self.activate.popleft())

    @rule(wish=WISHES)
    def someone_wants(self, wish: str) -> None:
        """What people do, rarely as against what machines do."""
        match wish:
            case "start":
                self.requested(self.new_token())
            case "stop":
                self.ledger.stops += 1
                self.give(ev.StopRequested())
            case "reset":
                self.give(ev.ResetFailed())
            case "send a signal":
                self.give(ev.Signalled())
            case "remove the program":
                self.refuse_spawn = True
            case "end the session" if not self.closing:
                self.closing = True
                self.failures_at_closing = self.service.failures
                self.give(ev.Closing())
            case "wait" if self.timer:
                self.fire(self.timer)
            case "serve by hand" if self.owner is None or isinstance(self.owner.who, Proc):
                self.claim(OwnerKind.FOREIGN)
            case "serve by another" if self.owner is None or isinstance(self.owner.who, Proc):
                self.claim(OwnerKind.OTHER)

    def fire(self, timer: Timer) -> None:
        """It is heard of once, and runs no more then."""
        self.timer = None
        if timer is Timer.SERVING:
            self.spared = {each for each in self.living() if each.serves}
        self.give(ev.TimerFired(timer))

    @precondition(lambda self: self.living() and len(self.present()) < 5)
    @rule(which=PICK)
    def fork(self, which: int) -> None:
        """A process starts another one."""
        parent = self.living()[which % len(self.living())]
        child = Proc(self.free_pid(), parent.activation, self.now(), parent)
        self.procs.append(child)
        if parent in self.spared:
            self.spared.add(child)

    @precondition(lambda self: self.living())
    @rule(which=PICK)
    def take_another_name(self, which: int) -> None:
        """A process of the service serves somebody by a name that is not the service's."""
        self.living()[which % len(self.living())].serves = True

    @precondition(lambda self: self.spared and self.service.state in STOPPING)
    @rule()
    def others_have_gone(self) -> None:
        """Only what is spared is left."""
        if self.present() and self.spared.issuperset(self.present()):
            self.give(ev.OnlyServing())

    @precondition(lambda self: self.living())
    @rule(which=PICK, end=EXITS, silently=st.booleans())
    def die(self, which: int, end: Exit, *, silently: bool) -> None:
        """A process ends; its own parent, if it lives, may be quick to reap it."""
        self.end(self.living()[which % len(self.living())], end, silently=silently)

    @precondition(lambda self: self.living() and self.activation)
    @rule(which=PICK)
    def take_name(self, which: int) -> None:
        """A process of the service takes the name, for the first time or once more."""
        proc = self.living()[which % len(self.living())]
        if self.owner is None or self.owner.who is not proc:
            self.claim(proc)

    @precondition(lambda self: self.owner is not None)
    @rule(next_in_queue=st.booleans(), which=PICK)
    def lose_name(self, which: int, *, next_in_queue: bool) -> None:
        """The owner gives it up, or the bus notices that it has ended."""
        assert self.owner is not None
        if which % 2 or (isinstance(self.owner.who, Proc) and not self.owner.who.alive):
            self.closed.add(self.owner.unique)
        heirs = [each for each in self.living() if each is not self.owner.who]
        if next_in_queue and heirs:
            self.claim(heirs[which % len(heirs)])
        else:
            self.set_owner(None)

    @precondition(lambda self: self.questions)
    @rule()
    def answer(self) -> None:
        """The bus comes to a question of ours."""
        asked = self.questions.popleft()
        self.stream.append(Answer(self.owner.unique if self.owner else "", asked))

    @precondition(lambda self: self.stream)
    @rule(variant=PICK)
    def hear_bus(self, variant: int) -> None:
        """The next message of the bus arrives."""
        message = self.stream.popleft()
        match message:
            case Acquired(owner):
                self.told_owner, self.told_at = owner, message.at
                self.give(self.acquired(message, variant), message)
            case Lost():
                self.told_owner = None
                self.give(ev.NameLost(), message)
            case Answer(unique):
                self.give(ev.OwnerConfirmed(unique), message)

    @precondition(lambda self: self.reapable())
    @rule(which=st.integers(1, 7))
    def drain(self, which: int) -> None:
        """Some of the dead are reaped, then activations are told that are empty now."""
        dead = self.reapable()
        chosen = [each for i, each in enumerate(dead) if which >> i % 3 & 1] or dead
        for proc in chosen:
            proc.zombie, proc.gone, proc.told = False, True, self.tick + 1
            current = proc.activation == self.activation
            self.give(ev.ProcessExited(proc.pid, proc.started, proc.end, current))
        for activation in {each.activation: None for each in chosen}:
            left = {each.activation for each in self.present()}
            if activation not in left and self.activation not in left:
                self.give(ev.Emptied(all_gone=not left))

    # -- what must hold ------------------------------------------------------------

    def asked(self) -> bool:
        """Whether the bus owes an answer."""
        return bool(self.questions) or any(isinstance(m, Answer) for m in self.stream)

    @invariant()
    def nobody_is_settled_twice(self) -> None:
        """And nobody both waits and has been told."""
        assert all(count == 1 for count in self.ledger.settled.values())
        assert not self.ledger.waiting.keys() & self.ledger.settled.keys()
        asked = len(self.ledger.waiting) + len(self.ledger.settled)
        assert asked == self.tokens - len(self.activate)

    @invariant()
    def those_who_wait_wait_for_something(self) -> None:
        """For an activation, an end, or an answer of the bus."""
        if self.ledger.waiting:
            state = self.service.state
            assert state in {State.START, *STOPPING} or (state in OWNED and self.asked())
        if self.service.state is State.START:
            assert self.ledger.waiting

    @invariant()
    def no_message_is_stuck_in_the_engine(self) -> None:
        """It asks no second time, so it must not be forgotten while nobody has the name."""
        if self.service.state in REST and not self.stream:
            assert self.engine_waits in {0, *self.activate}

    @invariant()
    def one_timer_where_there_is_something_to_wait_for(self) -> None:
        """The state says which; none at rest, none while the name is owned."""
        assert self.timer in TIMERS.get(self.service.state, {None})

    @invariant()
    def an_activation_is_spawned_once(self) -> None:
        """Never a second process, never none."""
        assert self.ledger.spawns == self.service.activations

    @invariant()
    def history_agrees_with_the_present(self) -> None:
        """The newest activation is the last one, and none but it goes on."""
        known = list(self.service.history)
        assert [each.number for each in known][-1:] == [self.service.activations][: len(known)]
        assert all(each.ended is not NEVER for each in known[:-1])
        if known and known[-1].ended is NEVER:
            assert self.service.state not in (State.DEAD, State.FAILED, State.EXTERNAL)
            assert (known[-1].owned is NEVER) is (self.service.state is State.START)

    @invariant()
    def owner_is_what_the_bus_said_last(self) -> None:
        """In every state, also where it makes no difference."""
        assert self.service.owner == (self.told_owner.unique if self.told_owner else "")

    @invariant()
    def state_follows_the_name(self) -> None:
        """Rule 1: a service runs while its name is owned."""
        state, owner = self.service.state, self.told_owner
        assert owner or state not in OWNED
        if owner is None or state in STOPPING:
            return
        if state is State.START and self.asked():
            return  # rule 3: it may be old news
        if isinstance(owner.who, OwnerKind):
            expected = State.EXTERNAL if owner.who is OwnerKind.FOREIGN else State.RUNNING
            assert state is expected
        elif owner.who is not None and owner.who.alive and owner.unique not in self.closed:
            # Of a closed connection nobody can say whose it was; the loss is on its way.
            assert state is State.RUNNING

    @invariant()
    def at_rest_nothing_is_left(self) -> None:
        """Rule 1: not before the last process has been reaped."""
        state = self.service.state
        if state in REST:
            assert not self.present()
            assert not self.service.stoppable
            assert self.service.main.pid == 0
            assert (state is State.DEAD) == (self.service.result is Result.SUCCESS)
        elif state is State.LINGERING or state in STOPPING:
            assert self.present(), "it waits for the end of what has ended"

    @invariant()
    def what_failed_does_not_linger(self) -> None:
        """Rule 4: it is ended, unless its name came after all, or it serves somebody."""
        if self.service.state in OWNED:
            self.failed_activation = 0
        elif self.service.state is State.LINGERING:
            left = {each for each in self.present() if each.activation == self.failed_activation}
            assert left <= self.spared

    @invariant()
    def main_process_is_not_one_that_was_reaped(self) -> None:
        """One that its own parent reaps is missed only when all have gone."""
        newest = [each for each in self.procs if each.pid == self.service.main.pid][-1:]
        assert not any(each.told for each in newest)

    @invariant()
    def an_activation_ends_as_soon_as_the_reason_exists(self) -> None:
        """Rule 2: nobody sits out the timeout when nobody will take the name."""
        if self.service.state is not State.START:
            return
        first, *others = [each for each in self.procs if each.activation == self.activation]
        doomed = first.told and (
            first.end != Exit(1, 0) or any(each.told and each.end != Exit(1, 0) for each in others)
        )
        # It ends by what the bus has still to say: an answer, or a dead owner's loss.
        assert not doomed or self.questions or self.stream or self.owner

    @invariant()
    def a_handover_is_waited_for_when_all_have_ended_well(self) -> None:
        """Rule 2: and no longer than for the activation itself."""
        if self.service.state is not State.START:
            return
        here = [each for each in self.procs if each.activation == self.activation]
        if self.timer is Timer.HANDOVER:
            assert not [each for each in here if not each.gone]
            assert all(each.end == Exit(1, 0) for each in here if each.told)
            assert self.service.main.pid == 0
            assert self.armed + HANDOVER * 1_000_000 < self.started + TIMEOUT * 1_000_000

    @invariant()
    def stops_are_waited_for(self) -> None:
        """Whoever asked for the end has been told, or it is being brought about."""
        assert not self.ledger.stops or self.service.state in STOPPING

    @invariant()
    def failures_are_deaths_and_failed_activations(self) -> None:
        """Rule 6, as an upper bound; rule 7."""
        ugly = [each for each in self.procs if each.told and not each.end.clean]
        assert self.service.failures <= self.ledger.failed_activations + len(ugly)
        assert self.service.failures >= self.ledger.failed_activations
        if self.closing:
            assert self.service.failures == self.failures_at_closing

    def teardown(self) -> None:
        """Let everything end: then nobody waits, and nothing is left."""
        for _ in range(100):
            for proc in self.living():
                self.end(proc, Exit(2, SIGTERM), silently=False)
            while self.reapable():
                self.drain(7)
            while self.activate:
                self.hear_engine()
            if self.owner is not None:
                self.lose_name(0, next_in_queue=False)
            while self.questions or self.stream:
                if self.questions:
                    self.answer()
                if self.stream:
                    self.hear_bus(0)
            if self.timer is Timer.HANDOVER or (self.timer and not self.present()):
                self.fire(self.timer)
            if not self.present() and self.timer is None and self.owner is None:
                break
        assert self.service.state in REST
        assert not self.ledger.waiting
        assert not self.ledger.stops
        assert not self.engine_waits
        assert self.timer is None
        self.at_rest_nothing_is_left()
        self.owner_is_what_the_bus_said_last()


# A failure takes its time until it is told in the shortest way.
TestLife = pytest.mark.timeout(600)(Life.TestCase)
TestLife.settings = settings(
    max_examples=500, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
