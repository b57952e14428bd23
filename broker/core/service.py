"""The life of a service: a pure state machine. Events in, effects out.

The rules, which the table below only spells out:

1.  The bus is the authority on names, the kernel on processes. A service runs
    while its name is owned; it is gone when the name is lost *and* its last
    process has been reaped, in whichever order the two become known.
2.  An activation ends once: with the name owned, or with a reason as soon as
    the reason exists. Reasons are: the program could not be started; its
    process exited other than with 0; every process of the activation has gone;
    the time is up; somebody stopped it. A first process that exits with 0 is
    no reason, it may have daemonized.
3.  A death seen before a name is no proof that the name was not taken: the two
    arrive on different ways. So before an activation fails by a death, the bus
    is asked (``ConfirmOwner``); what it says has then been handled in order.
    The same question settles a request for a name that is thought owned.
4.  What a failed activation leaves running is ended: SIGTERM, then SIGKILL
    after the stop timeout. A service that gave its name up may take its time
    (``lingering``); it is ended only when asked for.
5.  A request while the service is being ended waits, and starts it anew
    afterwards. Only the processes of the newest activation count for rule 2.
6.  Failures are: an activation that failed, and a main process that ended
    other than cleanly while nobody had asked for its end. Too many of them
    close the gate (``start_limit``); the gate's own refusals do not count.
7.  When the session ends, nothing is started and nothing fails any more.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from broker.core import events as ev
from broker.core.clock import NEVER, Instant
from broker.core.events import Effect, Event, OwnerKind, Timer, Token
from broker.core.exits import UNKNOWN_EXIT, Exit, Result
from broker.errors import (
    Outcome,
    ShuttingDown,
    SpawnChildExited,
    SpawnChildSignaled,
    SpawnFailed,
    StartLimitHit,
    TimedOut,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.start_limit import StartLimit

SIGKILL: Final = 9
SIGTERM: Final = 15


class State(enum.Enum):
    """A service's state as (ActiveState, SubState), systemd's words where it has them."""

    DEAD = ("inactive", "dead")
    START = ("activating", "start")
    RUNNING = ("active", "running")
    EXTERNAL = ("active", "external")
    LINGERING = ("deactivating", "lingering")
    STOP_SIGTERM = ("deactivating", "stop-sigterm")
    STOP_SIGKILL = ("deactivating", "stop-sigkill")
    FAILED = ("failed", "failed")


class Service:
    """One activatable name; its attributes are what the D-Bus interface shows.

    Attributes:
        owner: unique name of the connection that owns the name, or empty.
        main_pid: the spawned process, and from the moment the name is owned the
            owning one if it is of this service; 0 when that has ended.
        exec_main_pid, exec_main_exit, exec_main_start, exec_main_end: of the
            process that ``main_pid`` names or named last. A failed activation
            names the process that decided it.
        activation_usec: from the last successful request to the name, in microseconds.
    """

    __slots__ = (
        "_after_stop",
        "_all_gone",
        "_closing",
        "_emptied",
        "_last_exit",
        "_limit",
        "_requested",
        "_timeout",
        "_waiting",
        "activation_usec",
        "activations",
        "exec_main_end",
        "exec_main_exit",
        "exec_main_pid",
        "exec_main_start",
        "failures",
        "main_pid",
        "name",
        "owner",
        "result",
        "state",
        "state_change",
    )

    def __init__(self, name: str, limit: StartLimit, activation_timeout: float) -> None:
        """A service that is not running; ``activation_timeout`` in seconds is for messages."""
        self.name = name
        self.state = State.DEAD
        self.result = Result.SUCCESS
        self.owner = ""
        self.main_pid = 0
        self.exec_main_pid = 0
        self.exec_main_exit = UNKNOWN_EXIT
        self.exec_main_start = NEVER
        self.exec_main_end = NEVER
        self.state_change = NEVER
        self.activations = 0
        self.failures = 0
        self.activation_usec = 0
        self._limit = limit
        self._timeout = activation_timeout
        self._waiting: list[Token] = []
        self._requested = NEVER
        self._emptied = True  # no process of the newest activation is left
        self._all_gone = True  # no process of any activation is left
        # The newest end of a process that was not the main one, in this activation.
        self._last_exit: tuple[ev.ProcessExited, Instant] | None = None
        self._after_stop = State.DEAD
        self._closing = False

    @property
    def stoppable(self) -> bool:
        """Whether there is a process of the service's to end."""
        return not self._all_gone or self.state is State.START

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take an event and say what is to be done, in this order."""
        before = self.state
        effects = TRANSITIONS[self.state, type(event)](self, event, now)
        if self.state is not before:
            self.state_change = now
        return effects

    # -- requests --------------------------------------------------------------

    def _join(self, event: ev.Requested, _now: Instant) -> list[Effect]:
        self._waiting.append(event.token)
        return []

    def _start(self, event: ev.Requested, now: Instant) -> list[Effect]:
        self._waiting.append(event.token)
        return self._begin(now)

    def _wait_for_end(self, event: ev.Requested, now: Instant) -> list[Effect]:
        return self._start(event, now) if self._closing else self._join(event, now)

    def _doubt_owner(self, event: ev.Requested, _now: Instant) -> list[Effect]:
        self._waiting.append(event.token)
        return [ev.ConfirmOwner()]

    def _begin(self, now: Instant) -> list[Effect]:
        """Start an activation for those who wait, unless rule 6 or 7 forbids it."""
        if not self._waiting:
            return []
        if self._closing:
            return self._refuse(ShuttingDown(f"{self.name} is not started: the session is ending"))
        if self._limit.hit(now.monotonic):
            self.result = Result.START_LIMIT_HIT
            if self._all_gone:
                self.state = State.FAILED
            seconds = self._limit.interval / 1_000_000
            return self._refuse(
                StartLimitHit(
                    f"{self.name} failed {self._limit.burst} times within {seconds:g} s "
                    "and is not started for a while"
                )
            )
        self.state = State.START
        self.result = Result.SUCCESS
        self.activations += 1
        self.main_pid = 0
        self._requested = now
        self._emptied = True
        self._last_exit = None
        # The timer first: the spawn's answer may already cancel it.
        return [ev.ArmTimer(Timer.ACTIVATION), ev.Spawn()]

    def _spawned(self, event: ev.Spawned, _now: Instant) -> list[Effect]:
        self._emptied = self._all_gone = False
        self._set_main(event.pid, event.at)
        return []

    def _spawn_refused(self, event: ev.SpawnRefused, now: Instant) -> list[Effect]:
        return self._fail(event.error, event.result, now)

    # -- the name --------------------------------------------------------------

    def _acquired(self, event: ev.NameAcquired, now: Instant) -> list[Effect]:
        self.owner = event.owner
        if event.kind is OwnerKind.OWN and event.pid not in (0, self.main_pid):
            self._set_main(event.pid, event.started)
            if self._last_exit is not None and self._last_exit[0].pid == event.pid:
                # It took the name and died before its PID was known to be the owner's.
                self._main_exited(self._last_exit[0].exit, self._last_exit[1])
        starting = self.state is State.START
        if self.state is State.FAILED:
            self.result = Result.SUCCESS
        self.state = State.EXTERNAL if event.kind is OwnerKind.FOREIGN else State.RUNNING
        if not starting:
            return []
        self.activation_usec = now.monotonic - self._requested.monotonic
        return [ev.CancelTimer(), *self._complete()]

    def _acquired_late(self, event: ev.NameAcquired, _now: Instant) -> list[Effect]:
        """It is being ended already; the name goes with its processes."""
        self.owner = event.owner
        return []

    def _lost(self, _event: ev.NameLost | ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        self.owner = ""
        if self._all_gone:
            self._settle()
        else:
            self.state = State.LINGERING
        return self._begin(now)

    def _lost_late(self, _event: ev.NameLost, _now: Instant) -> list[Effect]:
        self.owner = ""
        return []

    def _confirmed_running(self, event: ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        return self._complete() if event.owner else self._lost(event, now)

    def _confirmed_start(self, event: ev.OwnerConfirmed, now: Instant) -> list[Effect]:
        """Rule 3: nobody took the name before the death that raised the question."""
        if event.owner or (self.exec_main_exit.zero and not self._emptied):
            return []
        if self.exec_main_exit.zero and self._last_exit and not self._last_exit[0].exit.zero:
            # The first process daemonized well; what it left behind did not end well.
            last, at = self._last_exit
            self._set_main(last.pid, last.started)
            self._main_exited(last.exit, at, judge=False)
        return self._fail(*self._verdict(), now)

    # -- processes -------------------------------------------------------------

    def _set_main(self, pid: int, started: Instant) -> None:
        self.main_pid = self.exec_main_pid = pid
        self.exec_main_start = started
        self.exec_main_exit, self.exec_main_end = UNKNOWN_EXIT, NEVER

    def _main_exited(self, end: Exit, at: Instant, *, judge: bool = True) -> None:
        self.main_pid = 0
        self.exec_main_exit, self.exec_main_end = end, at
        if judge and not end.clean and not self._closing:
            self.result = end.result
            self._count_failure(at)

    def _exited(self, event: ev.ProcessExited, now: Instant) -> list[Effect]:
        if event.pid == self.main_pid:
            self._main_exited(event.exit, now)
        elif event.current:
            self._last_exit = (event, now)
        return []

    def _exited_start(self, event: ev.ProcessExited, now: Instant) -> list[Effect]:
        if event.pid != self.main_pid:
            return self._exited(event, now)
        self._main_exited(event.exit, now, judge=False)
        return [] if event.exit.zero else [ev.ConfirmOwner()]

    def _note_exit(self, event: ev.ProcessExited, now: Instant) -> list[Effect]:
        if event.pid == self.main_pid:
            self._main_exited(event.exit, now, judge=False)
        return []

    def _emptied_start(self, event: ev.Emptied, _now: Instant) -> list[Effect]:
        self._emptied, self._all_gone = True, event.all_gone
        return [ev.ConfirmOwner()]

    def _note_emptied(self, event: ev.Emptied, _now: Instant) -> list[Effect]:
        self._emptied, self._all_gone = True, event.all_gone
        if self._all_gone:
            self.main_pid = 0  # one that was not ours to reap is gone as well
        return []

    def _emptied_lingering(self, event: ev.Emptied, now: Instant) -> list[Effect]:
        self._note_emptied(event, now)
        if self._all_gone:
            self._settle()
        return []

    def _emptied_stopping(self, event: ev.Emptied, now: Instant) -> list[Effect]:
        self._note_emptied(event, now)
        return self._stopped(now) if self._all_gone else []

    def _settle(self) -> None:
        """Rule 1: the name is lost and the last process has gone."""
        self.state = State.DEAD if self.result is Result.SUCCESS else State.FAILED

    # -- ends ------------------------------------------------------------------

    def _complete(self) -> list[Effect]:
        tokens, self._waiting = tuple(self._waiting), []
        return [ev.CompleteActivation(tokens)] if tokens else []

    def _refuse(self, error: Outcome) -> list[Effect]:
        tokens, self._waiting = tuple(self._waiting), []
        return [ev.FailActivation(tokens, error)]

    def _count_failure(self, now: Instant) -> None:
        self.failures += 1
        self._limit.failed(now.monotonic)

    def _verdict(self) -> tuple[Outcome, Result]:
        end = self.exec_main_exit
        # The reference implementation's words, which scripts look for.
        if end.zero:
            text = f"Process {self.name} exited with status 0 and left nobody to take its name"
            return SpawnChildExited(text), Result.PROTOCOL
        if end.result is Result.EXIT_CODE:
            text = f"Process {self.name} exited with status {end.status}"
            return SpawnChildExited(text), end.result
        return SpawnChildSignaled(f"Process {self.name} received signal {end.status}"), end.result

    def _fail(self, error: Outcome, result: Result, now: Instant) -> list[Effect]:
        self.result = result
        self._count_failure(now)
        effects: list[Effect] = [ev.CancelTimer(), *self._refuse(error)]
        if self._emptied:
            self.state = State.FAILED if self._all_gone else State.LINGERING
            return effects
        return effects + self._end(State.FAILED)

    def _activation_timeout(self, _event: ev.TimerFired, now: Instant) -> list[Effect]:
        text = f"Failed to activate service '{self.name}': timed out after {self._timeout:g} s"
        return self._fail(TimedOut(text), Result.TIMEOUT, now)

    def _end(self, after: State) -> list[Effect]:
        self.state = State.STOP_SIGTERM
        self._after_stop = after
        return [ev.ArmTimer(Timer.STOP), ev.SignalAll(SIGTERM)]

    def _stop(self, _event: ev.StopRequested, _now: Instant) -> list[Effect]:
        if self._all_gone:
            # The name alone is left, and the bus is about to say that it is not.
            return [ev.CompleteStop()]
        return self._end(State.DEAD if self.result is Result.SUCCESS else State.FAILED)

    def _stop_start(self, _event: ev.StopRequested | ev.Closing, _now: Instant) -> list[Effect]:
        reason: Outcome = SpawnFailed(f"{self.name} was stopped before it took its name")
        if self._closing:
            reason = ShuttingDown(f"{self.name} was stopped: the session is ending")
        return [
            ev.CancelTimer(),
            *self._refuse(reason),
            *(self._end(State.DEAD) if not self._all_gone else self._stopped_at_once()),
        ]

    def _stopped_at_once(self) -> list[Effect]:
        self.state = State.DEAD
        return [ev.CompleteStop()]

    def _stop_idle(self, _event: ev.StopRequested, _now: Instant) -> list[Effect]:
        return [ev.CompleteStop()]

    def _stop_timeout(self, _event: ev.TimerFired, _now: Instant) -> list[Effect]:
        """SIGKILL, again and again: what forks faster than it is found gets fewer each time."""
        self.state = State.STOP_SIGKILL
        return [ev.SignalAll(SIGKILL), ev.ArmTimer(Timer.KILL)]

    def _stopped(self, now: Instant) -> list[Effect]:
        self.state = self._after_stop
        return [ev.CancelTimer(), ev.CompleteStop(), *self._begin(now)]

    def _close(self, _event: ev.Closing, _now: Instant) -> list[Effect]:
        self._closing = True
        return self._refuse(ShuttingDown("the session is ending")) if self._waiting else []

    def _close_start(self, event: ev.Closing, now: Instant) -> list[Effect]:
        self._closing = True
        return self._stop_start(event, now)

    def _reset(self, _event: ev.ResetFailed, _now: Instant) -> list[Effect]:
        self._limit.reset()
        if self.state is State.FAILED:
            self.state = State.DEAD
        if self.state is State.DEAD:
            self.result = Result.SUCCESS
        return []

    def _ignore(self, _event: Event, _now: Instant) -> list[Effect]:
        return []

    def _impossible(self, event: Event, _now: Instant) -> list[Effect]:
        raise AssertionError(f"{self.name}: {event} in state {self.state.name}")


_S = Service
_AT_REST: Final = {
    ev.Requested: _S._start,
    ev.Spawned: _S._impossible,
    ev.SpawnRefused: _S._impossible,
    ev.NameAcquired: _S._acquired,
    ev.NameLost: _S._lost_late,
    ev.ProcessExited: _S._exited,
    ev.Emptied: _S._note_emptied,
    ev.OwnerConfirmed: _S._ignore,
    ev.TimerFired: _S._ignore,
    ev.StopRequested: _S._stop_idle,
    ev.Closing: _S._close,
    ev.ResetFailed: _S._reset,
}
_OWNED: Final = {
    **_AT_REST,
    ev.Requested: _S._doubt_owner,
    ev.NameLost: _S._lost,
    ev.OwnerConfirmed: _S._confirmed_running,
    ev.StopRequested: _S._stop,
}
_STOPPING: Final = {
    **_AT_REST,
    ev.Requested: _S._wait_for_end,
    ev.NameAcquired: _S._acquired_late,
    ev.ProcessExited: _S._note_exit,
    ev.Emptied: _S._emptied_stopping,
    ev.TimerFired: _S._stop_timeout,
    ev.StopRequested: _S._ignore,
}
_BY_STATE: Final = {
    State.DEAD: _AT_REST,
    State.FAILED: _AT_REST,
    State.START: {
        ev.Requested: _S._join,
        ev.Spawned: _S._spawned,
        ev.SpawnRefused: _S._spawn_refused,
        ev.NameAcquired: _S._acquired,
        ev.NameLost: _S._ignore,
        ev.ProcessExited: _S._exited_start,
        ev.Emptied: _S._emptied_start,
        ev.OwnerConfirmed: _S._confirmed_start,
        ev.TimerFired: _S._activation_timeout,
        ev.StopRequested: _S._stop_start,
        ev.Closing: _S._close_start,
        ev.ResetFailed: _S._reset,
    },
    State.RUNNING: _OWNED,
    # Somebody serves the name: that our own process had nothing to do is no failure.
    State.EXTERNAL: {**_OWNED, ev.ProcessExited: _S._note_exit},
    State.LINGERING: {
        **_AT_REST,
        ev.Emptied: _S._emptied_lingering,
        ev.StopRequested: _S._stop,
    },
    State.STOP_SIGTERM: _STOPPING,
    State.STOP_SIGKILL: _STOPPING,
}
# Every state knows every event: what cannot happen is said to be impossible.
TRANSITIONS: Final[dict[tuple[State, type[Event]], Callable[..., list[Effect]]]] = {
    (state, event): transition  # type: ignore[misc]
    for state, transitions in _BY_STATE.items()
    for event, transition in transitions.items()
}
