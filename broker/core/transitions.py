"""The transitions of a service: a method for each entry of the table in ``service``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.core import events as ev
from broker.core import reasons
from broker.core.clock import NEVER, Instant
from broker.core.events import Effect, Event, OwnerKind, Timer
from broker.core.exits import Exit, Result
from broker.core.history import History
from broker.core.main_process import MainProcess
from broker.core.recent_exits import RecentExit, RecentExits
from broker.core.state import Changes, State
from broker.core.waiting import Waiting

if TYPE_CHECKING:
    from broker.core.start_limit import StartLimit
    from broker.errors import DBusError

SIGKILL: Final = 9
SIGTERM: Final = 15
_OWNED_STATES: Final = {State.RUNNING, State.EXTERNAL}


class Transitions:
    """One activatable name; the D-Bus interface shows its attributes.

    Attributes:
        owner: unique name of the connection that owns the name, or empty.
        main: the spawned process; once the name is owned, its owner if that is a
            process of this service; after a failed activation, the process that
            decided it.
        changes: when the state last changed.
        history: the newest activations.
        waiting: the waiters for an activation.
        activation_usec: from the last successful request to the name, in microseconds.
    """

    def __init__(
        self, name: str, limit: StartLimit, activation_timeout: float, handover_timeout: float
    ) -> None:
        """A service at rest; timeouts in seconds, which the caller measures."""
        self.name = name
        self.state = State.DEAD
        self.result = Result.SUCCESS
        self.owner = ""
        self.main = MainProcess()
        self.changes = Changes()
        self.history = History()
        self.activations = 0
        self.failures = 0
        self.activation_usec = 0
        self._limit = limit
        self._timeout = activation_timeout
        self._handover_timeout = handover_timeout
        self.waiting = Waiting()
        self._claim: ev.NameAcquired | None = None  # the known owner's
        self._kind = OwnerKind.OWN  # the newest owner's
        self._requested = NEVER
        self._signalled = False  # a client sent a signal to the newest activation's processes
        self._failed = False  # the newest activation has failed
        self._sparing = False  # it is being ended for that, except owners of other names
        self._emptied = True  # no process of the newest activation is left
        self._all_gone = True  # no process of any activation is left
        self._exits = RecentExits()
        self._closing = False

    @property
    def stoppable(self) -> bool:
        """Whether the service has a process to end."""
        return not self._all_gone or self.state is State.START

    @property
    def taken(self) -> bool:
        """Whether the name's owner is not a process of the service."""
        return bool(self.owner) and self._kind is not OwnerKind.OWN

    # -- requests --------------------------------------------------------------

    def _serve(self, event: ev.Requested, now: Instant) -> list[Effect]:
        self.waiting.add(event.token, ask=self.state in _OWNED_STATES)
        return self._go_on(now)

    def _join(self, event: ev.Requested, _now: Instant) -> list[Effect]:
        self.waiting.add(event.token, ask=True)
        return self._ask()

    def _wait_for_end(self, event: ev.Requested, now: Instant) -> list[Effect]:
        self.waiting.add(event.token, ask=False)
        return self._go_on(now) if self._closing else []

    def _ask(self) -> list[Effect]:
        return [ev.ConfirmOwner()] if self.waiting.needs_question else []

    def _go_on(self, now: Instant) -> list[Effect]:
        """For the waiters: ask if the name seems owned, else start, if rules 6 and 7 allow."""
        if not self.waiting:
            return []
        if self.state in _OWNED_STATES:
            return [ev.ConfirmOwner()]
        if self._closing:
            return self._refuse(reasons.closing(self.name))
        if self._limit.hit(now.monotonic):
            self.result = Result.START_LIMIT_HIT
            if self._all_gone:
                self.state = State.FAILED
            seconds = self._limit.interval / 1_000_000
            return self._refuse(reasons.refused(self.name, self._limit.burst, seconds))
        self.activations += 1
        self.history.begin(self.activations, self.result, now)
        self.state = State.START
        self.result = Result.SUCCESS
        self._requested = now
        self._signalled = self._failed = False
        self._claim = None
        self._emptied = True
        return [ev.Spawn()]  # every question that rule 3 needs is asked already

    def _spawned(self, event: ev.Spawned, _now: Instant) -> list[Effect]:
        self._emptied = self._all_gone = False
        self.main.become(event.pid, event.at)
        self.history.spawned(event.pid, event.at)
        return [ev.ArmTimer(Timer.ACTIVATION)]

    def _spawn_refused(self, event: ev.SpawnRefused, now: Instant) -> list[Effect]:
        return self._fail(event.error, event.result, now)

    # -- the name --------------------------------------------------------------

    def _acquired(self, event: ev.NameAcquired, now: Instant) -> list[Effect]:
        self._note_owner(event, now)
        self._follow(event)
        return []

    def _acquired_start(self, event: ev.NameAcquired, now: Instant) -> list[Effect]:
        self._note_owner(event, now)
        heard_before = not event.pid and event.started.monotonic <= self._requested.monotonic
        if heard_before or not event.current:
            self.waiting.invalidate_answers()
            return self._ask()
        return self._take(now, sure=bool(event.pid))

    def _take(self, now: Instant, *, sure: bool) -> list[Effect]:
        """Complete a start with the known owner, unless it may be old news (rule 3)."""
        if (
            self._claim is None
            or not self.waiting.first_is_answered
            or not self._follow(self._claim)
        ):
            return []
        self.activation_usec = now.monotonic - self._requested.monotonic
        return [ev.CancelTimer(), *self._complete(sure=sure)]

    def _follow(self, owner: ev.NameAcquired) -> bool:
        """Run, since the name is owned; False if the owner has ended: NameLost is on its way."""
        if owner.kind is not OwnerKind.OWN:
            self.result = Result.SUCCESS
        elif not self._find_owner(owner):
            return False
        self.state = self._owned_state
        self._failed = False
        return True

    @property
    def _owned_state(self) -> State:
        return State.EXTERNAL if self._kind is OwnerKind.FOREIGN else State.RUNNING

    def _note_owner(self, event: ev.NameAcquired, _now: Instant) -> list[Effect]:
        """Note the new owner; while the service is being ended, do nothing else."""
        self.owner, self._kind = event.owner, event.kind
        self._claim = event
        return []

    def _find_owner(self, event: ev.NameAcquired) -> bool:
        """Make the service's process that took the name the main one.

        Returns:
            False if it has ended before: NameLost is on its way.
        """
        # An owner without a PID has gone; the best guess is that it was the main process.
        main = (self.main.last_pid, self.main.started)
        who = (event.pid, event.started) if event.pid else main
        end = self._exits.get(*who)
        if end is None and self._all_gone:
            return self.state is State.START  # it was not our child
        if end is not None and end.activation != self.activations:
            return False
        self.result = Result.SUCCESS
        if who[0] != self.main.pid:
            self.main.become(*who)
        if end is not None:
            # It took the name and ended, and we heard of its death first.
            end.activation = 0
            self._main_exited(end.exit, end.at, judge=True)
        return True

    def _lost(self, _event: ev.NameLost | ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        self.owner, self._claim = "", None
        self._settle()
        return self._go_on(now)

    def _lost_start(self, _event: ev.NameLost, _now: Instant) -> list[Effect]:
        """An owner that did not serve this start lost the name: earlier answers may name it."""
        self.owner, self._claim = "", None
        return [ev.ConfirmOwner()] if self._doomed else []

    def _lost_late(self, _event: ev.NameLost, _now: Instant) -> list[Effect]:
        self.owner, self._claim = "", None
        return []

    def _confirmed_running(self, event: ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        return self._complete() if event.owner else self._lost(event, now)

    def _confirmed_start(self, event: ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        """Rule 3: if the name has no owner now, it was not taken before the newest death."""
        if event.owner:
            return self._take(now, sure=True)
        return self._fail_by_end(now) if self._doomed else []

    # -- processes -------------------------------------------------------------

    @property
    def _doomed(self) -> bool:
        """Whether the activation has a reason to fail, unless its name turns out to be owned."""
        if self._emptied and not self._handover_timeout:
            return True
        # While the first process lives, the exits of others decide nothing.
        left_bad = not self.main.pid and any(self._exits.bad(self.activations))
        return left_bad or not self.main.exit.zero

    def _main_exited(self, end: Exit, at: Instant, *, judge: bool) -> None:
        self.main.end(end, at)
        if judge and not end.clean and not self._closing:
            self.result = end.result
            self.failures += 1

    def _exited(self, event: ev.ProcessExited, now: Instant) -> list[Effect]:
        main = event.pid == self.main.pid
        stopping = self.state in (State.STOP_SIGTERM, State.STOP_SIGKILL)
        served = self._kind is OwnerKind.OWN and self.state is not State.START
        judge = main and served and not stopping and not self._failed
        if main:
            self._main_exited(event.exit, now, judge=judge)
        counts = event.current and not judge and not stopping
        end = RecentExit(event.exit, now, self.activations if counts else 0)
        self._exits.add(event.pid, event.started, end)
        return []

    def _exited_start(self, event: ev.ProcessExited, now: Instant) -> list[Effect]:
        doomed = self._doomed
        self._exited(event, now)
        return [ev.ConfirmOwner()] if self._doomed and not doomed else []

    def _emptied_start(self, event: ev.Emptied, now: Instant) -> list[Effect]:
        waits = self._emptied
        self._note_emptied(event, now)
        if self._doomed:
            return [ev.ConfirmOwner()]
        left = self._timeout - (now.monotonic - self._requested.monotonic) / 1_000_000
        if waits or left <= self._handover_timeout:
            return []
        return [ev.CancelTimer(), ev.ArmTimer(Timer.HANDOVER)]

    def _note_emptied(self, event: ev.Emptied, _now: Instant) -> list[Effect]:
        self._emptied, self._all_gone = True, event.all_gone
        if self._all_gone:
            self.main.pid = 0  # a main process that was not our child has gone as well
        return []

    def _emptied_ending(self, event: ev.Emptied, now: Instant) -> list[Effect]:
        self._note_emptied(event, now)
        return self._ended(now) if self._all_gone else []

    def _settle(self) -> None:
        """Rule 1: the name is lost or foreign; which state follows depends on what is left."""
        if self.taken:
            self.state, self.result = self._owned_state, Result.SUCCESS
        elif not self._all_gone:
            self.state = State.LINGERING
        else:
            self.state = State.DEAD if self.result is Result.SUCCESS else State.FAILED

    # -- ends ------------------------------------------------------------------

    def _complete(self, *, sure: bool = True) -> list[Effect]:
        tokens = self.waiting.take_reached()
        return [ev.CompleteActivation(tokens, sure)] if tokens else []

    def _refuse(self, error: DBusError) -> list[Effect]:
        return [ev.FailActivation(self.waiting.take_all(), error)]

    def _fail(self, error: DBusError, result: Result, now: Instant) -> list[Effect]:
        self.result = result
        self.failures += 1
        self._failed = True
        if not self._signalled:
            self._limit.failed(now.monotonic)
        effects: list[Effect] = [ev.CancelTimer(), *self._refuse(error)]
        if self._claim is not None and self._follow(self._claim):
            return effects  # the bus has been too slow to confirm it
        if not self._emptied:
            self.state, self._sparing = State.STOP_SIGTERM, True
            return [*effects, ev.ArmTimer(Timer.SERVING)]
        self._settle()
        return effects

    def _fail_by_end(self, now: Instant) -> list[Effect]:
        """Fail with the exit of a process: a bad one, if there was one."""
        if self.main.exit.zero:
            # The first process daemonized well; its daemon may have ended badly.
            for pid, started, end in self._exits.bad(self.activations):
                self.main.become(pid, started)
                self._main_exited(end.exit, end.at, judge=False)
        return self._fail(*reasons.ended(self.name, self.main.exit), now)

    def _start_timeout(self, event: ev.TimerFired, now: Instant) -> list[Effect]:
        if event.timer in (Timer.ACTIVATION, Timer.HANDOVER) and self._emptied:
            return self._fail_by_end(now)
        if event.timer is not Timer.ACTIVATION:
            return []  # one that has been cancelled
        return self._fail(reasons.timed_out(self.name, self._timeout), Result.TIMEOUT, now)

    def _end(self) -> list[Effect]:
        self.state, self._sparing = State.STOP_SIGTERM, False
        return [ev.ArmTimer(Timer.STOP), ev.SignalAll(SIGTERM)]

    def _stop_stopping(self, _event: ev.StopRequested, _now: Instant) -> list[Effect]:
        return [ev.CancelTimer(), *self._end()] if self._sparing else []

    def _spared(self, _event: ev.OnlyServing, now: Instant) -> list[Effect]:
        if not self._sparing:
            return []
        self._sparing = False
        # A spared process may have taken the name meanwhile.
        if self._claim is None or not self._follow(self._claim):
            self._settle()
        return [ev.CancelTimer(), *self._go_on_after_end(now)]

    def _stop(self, _event: ev.StopRequested, now: Instant) -> list[Effect]:
        if not self._all_gone:
            return self._end()
        if self.taken:
            return [ev.CompleteStop()]
        # Only the name is left, and its NameLost is on its way.
        return self._ended(now)

    def _stop_start(self, _event: ev.StopRequested | ev.Closing, now: Instant) -> list[Effect]:
        reason = reasons.closing if self._closing else reasons.stopped
        effects = [ev.CancelTimer(), *self._refuse(reason(self.name))]
        return effects + (self._ended(now) if self._all_gone else self._end())

    def _signalled_start(self, _event: ev.Signalled, _now: Instant) -> list[Effect]:
        self._signalled = True
        return []

    def _stop_idle(self, _event: ev.StopRequested, _now: Instant) -> list[Effect]:
        return [ev.CompleteStop()]

    def _stop_timeout(self, event: ev.TimerFired, now: Instant) -> list[Effect]:
        """SIGKILL, repeatedly: each round thins out processes that fork faster than we find them.

        A request waits for the end no longer than for a start.
        """
        if event.timer is Timer.SERVING and self.state is State.STOP_SIGTERM:
            term = ev.SignalAll(SIGTERM, self._sparing)
            return [ev.CancelTimer(), ev.ArmTimer(Timer.STOP), term]
        if event.timer not in (Timer.STOP, Timer.KILL):
            return []  # one that has been cancelled
        refused = []
        since = now.monotonic - self.changes.state.monotonic
        if self.state is State.STOP_SIGKILL and self.waiting and since > self._timeout * 1_000_000:
            self.failures += 1
            refused = self._refuse(reasons.unending(self.name))
        self.state = State.STOP_SIGKILL
        kill = ev.SignalAll(SIGKILL, self._sparing)
        return [kill, ev.CancelTimer(), ev.ArmTimer(Timer.KILL), *refused]

    def _ended(self, now: Instant) -> list[Effect]:
        self._settle()
        return [ev.CancelTimer(), ev.CompleteStop(), *self._go_on_after_end(now)]

    def _go_on_after_end(self, now: Instant) -> list[Effect]:
        if self.state in _OWNED_STATES:
            self.waiting.invalidate_answers()  # every open question is older than the waiters
        return self._go_on(now)

    def _close(self, event: ev.Closing, now: Instant) -> list[Effect]:
        self._closing = True
        if self.state is State.START:
            return self._stop_start(event, now)
        return self._refuse(reasons.closing(self.name)) if self.waiting else []

    def _reset(self, _event: ev.ResetFailed, _now: Instant) -> list[Effect]:
        self._limit.reset()
        self.result = Result.SUCCESS
        if self.state is State.FAILED:
            self.state = State.DEAD
        return []

    def _ignore(self, _event: Event, _now: Instant) -> list[Effect]:
        return []

    def _impossible(self, event: Event, _now: Instant) -> list[Effect]:
        raise AssertionError(f"{self.name}: {event} in state {self.state.name}")
