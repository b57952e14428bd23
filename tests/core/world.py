"""The world around a service, as bus and kernel allow it to be.

The world has two channels that know nothing of each other. The bus says in one
stream who took or lost the name and answers questions, in the order in which
that happened *there*. The kernel's deaths are told by drains, as the supervisor
does it. Between something happening and the service hearing of it, anything
else may happen: that is where the races are. Requests come on a third channel,
ahead of or behind both.

What an effect of the service must be like is asserted here, where it is carried
out; what can happen, and what must hold after it, is in ``test_stateful.py``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from hypothesis.stateful import RuleBasedStateMachine

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.service import Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.core.transitions import SIGKILL, SIGTERM
from broker.errors import (
    DBusError,
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

STOPPING: Final = {State.STOP_SIGTERM, State.STOP_SIGKILL}
NAME: Final = "org.example.Echo"
# In ticks; one event is one tick. So narrow that runs get in and out of it.
BURST: Final = 2
INTERVAL: Final = 25
# In seconds; a tick is a microsecond. Both end when a run says so, but which of them is armed
# depends on how long the activation has taken.
TIMEOUT: Final = 40e-6
HANDOVER: Final = 20e-6


@dataclass(eq=False)
class Proc:
    """A process of the service.

    Attributes:
        parent: a living process that has it as a child; None: it is the broker's.
        zombie: it has ended and nobody has waited for it.
        gone: it has been waited for.
        told: when the service has heard how it ended; 0: it has not.
        serves: it owns another name.
    """

    pid: int
    activation: int
    started: Instant
    parent: Proc | None = None
    zombie: bool = False
    gone: bool = False
    told: int = 0
    serves: bool = False
    end: Exit = Exit(0, 0)  # noqa: RUF009 - it is frozen

    @property
    def alive(self) -> bool:
        """Whether it can still do something."""
        return not self.zombie and not self.gone


@dataclass(frozen=True)
class Owner:
    """A connection that has the name: of the service's, or of somebody else's.

    Attributes:
        who: None if nobody can say.
    """

    unique: str
    who: Proc | OwnerKind | None


@dataclass(frozen=True)
class Acquired:
    """The bus says: the name has a new owner; ``at``: since when."""

    owner: Owner
    at: int


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
class Ledger:
    """What was asked of the service, and what came of it."""

    waiting: dict[int, int] = field(default_factory=dict)  # since when
    settled: Counter[int] = field(default_factory=Counter)
    stops: int = 0
    spawns: int = 0
    started_for: int = 0  # who had waited longest at the newest start
    failed_activations: int = 0


class World(RuleBasedStateMachine):
    """Everything outside of the state machine, as loosely coupled as it really is."""

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(NAME, StartLimit(BURST, INTERVAL), TIMEOUT, HANDOVER)
        self.tick = 100
        self.ledger = Ledger()
        self.procs: list[Proc] = []
        self.spared: set[Proc] = set()  # as the bus said when an activation had failed
        self.activation = 0  # the newest that has had a process
        self.activations = 0
        self.failed_activation = 0  # if the newest that had a process has failed
        self.timer: Timer | None = None
        self.armed = 0  # when
        self.started = 0  # when the newest start was requested
        self.owner: Owner | None = None  # as the bus has it
        self.told_owner: Owner | None = None  # as the service was told
        self.told_at = 0  # when the bus gave it the name
        self.stream: deque[BusMessage] = deque()
        self.questions: deque[int] = deque()  # on their way to the bus: when asked
        self.connections = 0
        self.closed: set[str] = set()  # connections, as the bus has noticed
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
                self.timer, self.armed = timer, self.tick
            case ev.CancelTimer():
                self.timer = None
            case ev.ConfirmOwner():
                self.questions.append(self.tick)
            case ev.CompleteActivation(tokens, sure):
                self.completed(tokens, sure=sure)
            case ev.FailActivation(tokens, error):
                self.failed(tokens, error)
            case ev.SignalAll(number, sparing):
                self.signalled(number, sparing=sparing)
            case ev.CompleteStop():
                assert not self.present(), "a stop is complete while processes are left"
                self.ledger.stops = 0

    def spawn(self) -> None:
        """Answer at once, as the activator does: nothing can come between."""
        assert not self.closing, "started while the session ends"
        assert self.service.state is State.START
        self.ledger.spawns += 1
        self.started = self.tick
        oldest = next(iter(self.ledger.waiting))
        assert oldest != self.ledger.started_for, "nobody heard how the last start ended"
        self.ledger.started_for = oldest
        if self.refuse_spawn:
            self.refuse_spawn = False
            self.give(ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED))
            return
        self.activations += 1
        self.activation = self.activations
        proc = Proc(self.free_pid(), self.activation, self.now())
        self.procs.append(proc)
        self.give(ev.Spawned(proc.pid, proc.started))

    def settle(self, tokens: tuple[object, ...], *, dismissed: bool) -> list[int]:
        """Strike those who waited off the list, and say since when; each must still be on it."""
        found = []
        for token in tokens:
            assert isinstance(token, int)
            if dismissed and token == self.engine_waits:
                self.engine_waits = 0
            assert token in self.ledger.waiting, f"{token} is settled twice"
            found.append(self.ledger.waiting.pop(token))
            self.ledger.settled[token] += 1
        return found

    def completed(self, tokens: tuple[object, ...], *, sure: bool) -> None:
        """Success must rest on something that the bus said after it was asked for.

        Of an owner who has gone nothing can be known: then the engine is let go.
        """
        assert tokens
        assert self.told_owner is not None, "completed without an owner"
        gone = isinstance(self.cause, Acquired) and self.cause.owner.unique in self.closed
        assert sure or gone
        for since in self.settle(tokens, dismissed=not sure):
            if not sure:
                continue
            # What is older than the request may have been lost again before it: then
            # the engine, which asked after that, would wait for nobody.
            news = self.told_at > since
            if not isinstance(self.cause, Acquired):
                assert isinstance(self.cause, Answer)
                assert self.cause.unique
                news = news or self.cause.asked >= since
            assert news

    def failed(self, tokens: tuple[object, ...], error: DBusError) -> None:
        """The reason must be the true one."""
        self.settle(tokens, dismissed=True)
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
            case SpawnChildExited() | SpawnChildSignaled() if isinstance(self.cause, Answer):
                assert not self.cause.unique, "failed by a death although the name is owned"
                self.check_reason(error, self.cause.asked)
            case SpawnChildExited() | SpawnChildSignaled():
                # The bus was asked before the timer was heard of.
                assert isinstance(self.cause, ev.TimerFired)
                assert not [p for p in self.present() if p.activation == self.activation]
                self.check_reason(error, self.tick)
            case _:
                assert isinstance(self.cause, ev.SpawnRefused)
                self.ledger.failed_activations += 1
                return
        self.ledger.failed_activations += 1
        self.failed_activation = self.activation

    def check_reason(self, error: DBusError, asked: int) -> None:
        """Some process of this very activation has ended as the text says.

        And the bus was asked after that, not before: it could have taken the name
        in between.
        """
        number = re.search(r"(?:status|signal) (\d+)", str(error))
        assert number is not None
        here = [each for each in self.procs if each.activation == self.activation]
        ends = [each.end for each in here if each.told]
        assert here[0].told
        if here[0].end.zero:
            # By the end of the last one, or the first bad one of what it has left behind.
            bad = [each.told for each in here if each.told and not each.end.zero]
            decided = max(here[0].told, min(bad)) if bad else max(each.told for each in here)
            assert asked >= decided
        else:
            assert asked >= here[0].told
        exited = isinstance(error, SpawnChildExited)
        assert any(end.status == int(number[1]) and (end.code == 1) == exited for end in ends)
        if self.service.state in (State.RUNNING, State.EXTERNAL):
            # The bus has been too slow to confirm what it had said.
            assert isinstance(self.cause, ev.TimerFired)
        elif "status 0" in str(error):
            assert self.service.result is Result.PROTOCOL
            assert all(end == Exit(1, 0) for end in ends), "exit 0 hides a worse end"
            assert not [p for p in self.present() if p.activation == self.activation]
        else:
            assert self.service.main.exit.status == int(number[1])

    def signalled(self, number: int, *, sparing: bool) -> None:
        """SIGTERM may be ignored; SIGKILL is not, though a fork may escape it.

        What serves somebody gets neither, unless somebody has asked for its end.
        """
        if sparing:
            assert not self.ledger.stops
        else:
            assert self.ledger.stops or self.closing
            self.spared = set()
        assert number == (SIGTERM if self.service.state is State.STOP_SIGTERM else SIGKILL)
        assert self.service.state in STOPPING
        if number == SIGKILL:
            for proc in set(self.living()) - self.spared:
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
        used.add(self.service.main.pid)
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
        self.stream.append(Acquired(owner, self.now().monotonic) if owner else Lost())

    def claim(self, who: Proc | OwnerKind) -> None:
        """A new connection takes the name, from whoever has it."""
        self.connections += 1
        self.set_owner(Owner(f":1.{self.connections}", who))

    def new_token(self) -> int:
        """For whoever wants the name."""
        self.tokens += 1
        return self.tokens

    def requested(self, token: int) -> None:
        """It is asked of the service."""
        self.ledger.waiting[token] = self.tick
        self.give(ev.Requested(token))

    def acquired(self, message: Acquired, variant: int) -> ev.NameAcquired:
        """What can be found out of an owner depends on how far its end has come."""
        owner = message.owner
        if owner.unique in self.closed and variant % 2:
            # The bus has no PID for a connection that is closed: it is taken for ours.
            if isinstance(owner.who, OwnerKind):
                self.told_owner = Owner(owner.unique, None)
            heard = Instant(message.at, message.at) if variant == 1 else self.now()
            return ev.NameAcquired(owner.unique, 0, OwnerKind.OWN, heard, current=True)
        if isinstance(owner.who, OwnerKind):
            return ev.NameAcquired(owner.unique, 99_999, owner.who, self.now(), current=False)
        proc = owner.who
        assert proc is not None
        if proc.gone and variant == 4:
            # Nothing is known of it any more: it looks like anybody's.
            self.told_owner = Owner(owner.unique, OwnerKind.FOREIGN)
            foreign = OwnerKind.FOREIGN
            return ev.NameAcquired(owner.unique, proc.pid, foreign, self.now(), current=False)
        current = proc.activation == self.activation
        return ev.NameAcquired(owner.unique, proc.pid, OwnerKind.OWN, proc.started, current)

    def reapable(self) -> list[Proc]:
        """The dead that are the broker's children."""
        return [each for each in self.procs if each.zombie and each.parent is None]
