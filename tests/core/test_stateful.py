"""A service in a world that does whatever bus and kernel allow, in any order.

The world has two channels that know nothing of each other. The bus says in one
stream who took or lost the name and answers questions, in the order in which
that happened *there*. The kernel's deaths are told by drains, as the supervisor
does it. Between something happening and the service hearing of it, anything
else may happen: that is where the races are. Requests come on a third channel,
ahead of or behind both.

What a rule of this machine does is possible in reality; what must hold after it
follows from the rules on top of ``broker/core/service.py``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.service import SIGKILL, SIGTERM, Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.errors import (
    Outcome,
    ShuttingDown,
    SpawnChildExited,
    SpawnChildSignaled,
    SpawnExecFailed,
    SpawnFailed,
    StartLimitHit,
    TimedOut,
)

if TYPE_CHECKING:
    from broker.core.events import Effect, Event

NAME: Final = "org.example.Echo"
REST: Final = {State.DEAD, State.FAILED}
OWNED: Final = {State.RUNNING, State.EXTERNAL}
STOPPING: Final = {State.STOP_SIGTERM, State.STOP_SIGKILL}
# Which timer may be armed, and must be, in which state.
TIMERS: Final = {
    State.START: Timer.ACTIVATION,
    State.STOP_SIGTERM: Timer.STOP,
    State.STOP_SIGKILL: Timer.KILL,
}
# In ticks; one event is one tick. So narrow that runs get in and out of it.
BURST: Final = 2
INTERVAL: Final = 25

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
        "reset",
        "end the session",
    ]
)


@dataclass(eq=False)
class Proc:
    """A process of the service.

    Attributes:
        parent: a living process that has it as a child; None: it is the broker's.
        zombie: it has ended and nobody has waited for it.
        gone: it has been waited for.
        told: when the service has heard how it ended; 0: it has not.
        heard: the bus has noticed that its connection is closed.
    """

    pid: int
    activation: int
    started: Instant
    parent: Proc | None = None
    zombie: bool = False
    gone: bool = False
    told: int = 0
    heard: bool = False
    end: Exit = Exit(0, 0)  # noqa: RUF009 - it is frozen

    @property
    def alive(self) -> bool:
        """Whether it can still do something."""
        return not self.zombie and not self.gone


@dataclass(frozen=True)
class Owner:
    """A connection that has the name: of the service's, or of somebody else's."""

    unique: str
    who: Proc | OwnerKind


@dataclass(frozen=True)
class Acquired:
    """The bus says: the name has a new owner."""

    owner: Owner


@dataclass(frozen=True)
class Lost:
    """The bus says: nobody has the name."""


@dataclass(frozen=True)
class Answer:
    """The bus says who has the name; ``asked``: when it was."""

    unique: str
    asked: int


BusMessage: TypeAlias = Acquired | Lost | Answer


@dataclass
class Pending:
    """Somebody who waits, since when, and until when that was before a start."""

    since: int
    before_start: bool = True


@dataclass
class Ledger:
    """What was asked of the service, and what came of it."""

    waiting: dict[int, Pending] = field(default_factory=dict)
    settled: Counter[int] = field(default_factory=Counter)
    stops: int = 0
    spawns: int = 0
    failed_activations: int = 0


class World(RuleBasedStateMachine):
    """Everything outside of the state machine, as loosely coupled as it really is."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(NAME, StartLimit(BURST, INTERVAL), 25.0)
        self.tick = 100
        self.ledger = Ledger()
        self.procs: list[Proc] = []
        self.activation = 0  # the newest that has had a process
        self.activations = 0
        self.timer: Timer | None = None
        self.owner: Owner | None = None  # as the bus has it
        self.told_owner: Owner | None = None  # as the service was told
        self.stream: deque[BusMessage] = deque()
        self.questions: deque[int] = deque()  # on their way to the bus: when asked
        self.connections = 0
        self.tokens = 0
        # The engine asks once for a name until it is owned or refused (0: it does not),
        # and that comes on a connection of its own.
        self.engine_waits = 0
        self.activate: deque[int] = deque()  # what it asked, and we have not read
        self.closing = False
        self.failures_at_closing = 0
        self.refuse_spawn = False
        self.cause: BusMessage | Event | None = None

    # -- giving events and carrying out effects ----------------------------------

    def now(self) -> Instant:
        """A new moment; no two things happen at the same."""
        self.tick += 1
        return Instant(self.tick, self.tick)

    def give(self, event: Event, cause: BusMessage | None = None) -> None:
        """Hand an event to the service, and do what it asks in the given order."""
        self.cause = cause or event
        for effect in self.service.handle(event, self.now()):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """What the activator does with an effect."""
        match effect:
            case ev.Spawn():
                self.spawn()
            case ev.ArmTimer(timer):
                assert self.timer is None, "a timer is armed while one runs"
                self.timer = timer
            case ev.CancelTimer():
                self.timer = None
            case ev.ConfirmOwner():
                self.questions.append(self.tick)
            case ev.CompleteActivation(tokens):
                self.completed(tokens)
            case ev.FailActivation(tokens, error):
                self.failed(tokens, error)
            case ev.SignalAll(number):
                self.signalled(number)
            case ev.CompleteStop():
                assert not self.present(), "a stop is complete while processes are left"
                self.ledger.stops = 0

    def spawn(self) -> None:
        """Answer at once, as the activator does: nothing can come between."""
        assert not self.closing, "started while the session ends"
        assert self.service.state is State.START
        self.ledger.spawns += 1
        for pending in self.ledger.waiting.values():
            pending.before_start = True
        if self.refuse_spawn:
            self.refuse_spawn = False
            self.give(ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED))
            return
        self.activations += 1
        self.activation = self.activations
        proc = Proc(self.free_pid(), self.activation, self.now())
        self.procs.append(proc)
        self.give(ev.Spawned(proc.pid, proc.started))

    def settle(self, tokens: tuple[object, ...], *, failed: bool) -> list[Pending]:
        """Strike those who waited off the list; each must still be on it."""
        found = []
        for token in tokens:
            assert isinstance(token, int)
            if failed and token == self.engine_waits:
                self.engine_waits = 0
            assert token in self.ledger.waiting, f"{token} is settled twice"
            found.append(self.ledger.waiting.pop(token))
            self.ledger.settled[token] += 1
        return found

    def completed(self, tokens: tuple[object, ...]) -> None:
        """Success must rest on something that the bus said after it was asked for."""
        assert tokens
        assert self.told_owner is not None, "completed without an owner"
        for pending in self.settle(tokens, failed=False):
            if isinstance(self.cause, Acquired):
                # The bus may have said that before the request was made: then the
                # name is lost again, the engine waits, and nobody would ever come.
                assert pending.before_start
                who = self.cause.owner.who
                if not (isinstance(who, Proc) and who.activation == self.activation):
                    # Known gap: someone else's taking that is older than the start
                    # counts as if it were newer. Then what was started is left to
                    # serve the engine; if that fails, nobody does.
                    self.engine_waits = 0
            else:
                assert isinstance(self.cause, Answer)
                assert self.cause.asked >= pending.since
                assert self.cause.unique

    def failed(self, tokens: tuple[object, ...], error: Outcome) -> None:
        """The reason must be the true one."""
        self.settle(tokens, failed=True)
        assert not self.closing or isinstance(error, ShuttingDown)
        match error:
            case ShuttingDown():
                assert self.closing
                return
            case StartLimitHit():
                assert self.service.failures >= BURST
                return
            case SpawnFailed():
                assert isinstance(self.cause, ev.StopRequested)
                return
            case TimedOut():
                assert isinstance(self.cause, ev.TimerFired)
            case SpawnChildExited() | SpawnChildSignaled():
                assert isinstance(self.cause, Answer)
                assert not self.cause.unique, "failed by a death although the name is owned"
                self.check_reason(error, self.cause.asked)
            case _:
                assert isinstance(self.cause, ev.SpawnRefused)
        self.ledger.failed_activations += 1

    def check_reason(self, error: Outcome, asked: int) -> None:
        """Some process of this very activation has ended as the text says.

        And the bus was asked after that, not before: it could have taken the name
        in between.
        """
        number = re.search(r"(?:status|signal) (\d+)", str(error))
        assert number is not None
        here = [each for each in self.procs if each.activation == self.activation]
        ends = [each.end for each in here if each.told]
        if here[0].end.zero:
            assert asked >= max(each.told for each in here)
        else:
            assert here[0].told
            assert asked >= here[0].told
        exited = isinstance(error, SpawnChildExited)
        assert any(end.status == int(number[1]) and (end.code == 1) == exited for end in ends)
        if "status 0" in str(error):
            assert self.service.result is Result.PROTOCOL
            assert all(end == Exit(1, 0) for end in ends), "exit 0 hides a worse end"
            assert not [p for p in self.present() if p.activation == self.activation]
        else:
            assert self.service.exec_main_exit.status == int(number[1])

    def signalled(self, number: int) -> None:
        """SIGTERM may be ignored; SIGKILL is not, though a fork may escape it."""
        assert number == (SIGTERM if self.service.state is State.STOP_SIGTERM else SIGKILL)
        assert self.service.state in STOPPING
        if number == SIGKILL:
            for proc in self.living():
                self.end(proc, Exit(2, SIGKILL), silently=False)

    # -- the world ---------------------------------------------------------------

    def present(self) -> list[Proc]:
        """What the broker has on record, or will find below that."""
        return [each for each in self.procs if not each.gone]

    def living(self) -> list[Proc]:
        """What can still do something."""
        return [each for each in self.procs if each.alive]

    def free_pid(self) -> int:
        """The lowest that nobody has: PIDs come again as early as they can."""
        used = {each.pid for each in self.present()}
        # A name that is told late is told with the PID that its owner had then.
        holders = [m.owner for m in self.stream if isinstance(m, Acquired)]
        holders += [owner for owner in (self.owner, self.told_owner) if owner]
        used |= {each.who.pid for each in holders if isinstance(each.who, Proc)}
        # And one that ended unseen is thought to live until all are gone.
        used.add(self.service.main_pid)
        return next(pid for pid in range(2, 1000) if pid not in used)

    def end(self, proc: Proc, end: Exit, *, silently: bool) -> None:
        """A process ends; its children are the broker's from then on."""
        proc.end = end
        proc.zombie = True
        if silently and proc.parent is not None:
            proc.zombie, proc.gone = False, True
        for child in self.procs:
            if child.parent is proc:
                child.parent = None

    def set_owner(self, owner: Owner | None) -> None:
        """The bus gives the name, or takes it; everybody hears of it later."""
        self.owner = owner
        if owner is not None:
            self.engine_waits = 0  # what was held back is delivered
        self.stream.append(Acquired(owner) if owner else Lost())

    def claim(self, who: Proc | OwnerKind) -> None:
        """A new connection takes the name, from whoever has it."""
        self.connections += 1
        self.set_owner(Owner(f":1.{self.connections}", who))

    @initialize()
    def first_request(self) -> None:
        """Nothing interesting happens before one."""
        self.requested(self.new_token())

    def new_token(self) -> int:
        """For whoever wants the name."""
        self.tokens += 1
        return self.tokens

    def requested(self, token: int) -> None:
        """It is asked of the service."""
        self.ledger.waiting[token] = Pending(self.tick, before_start=False)
        self.give(ev.Requested(token))

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
            case "remove the program":
                self.refuse_spawn = True
            case "end the session" if not self.closing:
                self.closing = True
                self.failures_at_closing = self.service.failures
                self.give(ev.Closing())
            case "wait" if self.timer:
                timer, self.timer = self.timer, None
                self.give(ev.TimerFired(timer))
            case "serve by hand" if self.owner is None or isinstance(self.owner.who, Proc):
                self.claim(OwnerKind.FOREIGN)
            case "serve by another" if self.owner is None or isinstance(self.owner.who, Proc):
                self.claim(OwnerKind.OTHER)

    @precondition(lambda self: self.living() and len(self.present()) < 5)
    @rule(which=PICK)
    def fork(self, which: int) -> None:
        """A process starts another one."""
        parent = self.living()[which % len(self.living())]
        child = Proc(self.free_pid(), parent.activation, self.now(), parent)
        self.procs.append(child)

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
        if isinstance(self.owner.who, Proc) and not self.owner.who.alive:
            self.owner.who.heard = True
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
                self.told_owner = owner
                self.give(self.acquired(owner, variant), message)
            case Lost():
                self.told_owner = None
                self.give(ev.NameLost(), message)
            case Answer(unique):
                self.give(ev.OwnerConfirmed(unique), message)

    def acquired(self, owner: Owner, variant: int) -> ev.NameAcquired:
        """What can be found out of an owner depends on how far its end has come."""
        if isinstance(owner.who, OwnerKind):
            return ev.NameAcquired(owner.unique, 99_999, owner.who, self.now())
        proc = owner.who
        if proc.heard and variant % 2:
            # The bus has no PID for a connection that is closed.
            return ev.NameAcquired(owner.unique, 0, OwnerKind.OWN, self.now())
        if proc.gone and variant == 4:
            # Nothing is known of it any more: it looks like anybody's.
            self.told_owner = Owner(owner.unique, OwnerKind.FOREIGN)
            return ev.NameAcquired(owner.unique, proc.pid, OwnerKind.FOREIGN, self.now())
        return ev.NameAcquired(owner.unique, proc.pid, OwnerKind.OWN, proc.started)

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

    def reapable(self) -> list[Proc]:
        """The dead that are the broker's children."""
        return [each for each in self.procs if each.zombie and each.parent is None]

    # -- what must hold ------------------------------------------------------------

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
            asked = self.questions or any(isinstance(m, Answer) for m in self.stream)
            state = self.service.state
            assert state in {State.START, *STOPPING} or (state in OWNED and asked)
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
        assert self.timer is TIMERS.get(self.service.state)

    @invariant()
    def an_activation_is_spawned_once(self) -> None:
        """Never a second process, never none."""
        assert self.ledger.spawns == self.service.activations

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
        if isinstance(owner.who, OwnerKind):
            expected = State.EXTERNAL if owner.who is OwnerKind.FOREIGN else State.RUNNING
            assert state is expected
        elif owner.who.alive:
            assert state is State.RUNNING

    @invariant()
    def at_rest_nothing_is_left(self) -> None:
        """Rule 1: not before the last process has been reaped."""
        state = self.service.state
        if state in REST:
            assert not self.present()
            assert not self.service.stoppable
            assert self.service.main_pid == 0
            assert (state is State.DEAD) == (self.service.result is Result.SUCCESS)
        elif state is State.LINGERING or state in STOPPING:
            assert self.present(), "it waits for the end of what has ended"

    @invariant()
    def main_process_is_not_one_that_was_reaped(self) -> None:
        """One that its own parent reaps is missed only when all have gone."""
        newest = [each for each in self.procs if each.pid == self.service.main_pid][-1:]
        assert not any(each.told for each in newest)

    @invariant()
    def an_activation_ends_as_soon_as_the_reason_exists(self) -> None:
        """Rule 2: nobody sits out the timeout when nobody will take the name."""
        if self.service.state is not State.START:
            return
        here = [each for each in self.procs if each.activation == self.activation]
        first = here[0]
        doomed = all(each.gone for each in here) or (first.told and first.end != Exit(1, 0))
        # It ends by what the bus has still to say: an answer, or a dead owner's loss.
        assert not doomed or self.questions or self.stream or self.owner

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
TestWorld = pytest.mark.timeout(600)(World.TestCase)
TestWorld.settings = settings(
    max_examples=500, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
