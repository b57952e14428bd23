"""The life of a service: a pure state machine. Events in, effects out.

The rules, which the table below only spells out:

1.  The bus is the authority on names, the kernel on processes. A service runs
    while its name is owned; it is gone when the name is lost *and* its last
    process has been reaped, in whichever order the two become known.
2.  An activation ends once: with the name owned, or with a reason as soon as
    the reason exists. Reasons are: the program could not be started; its
    process ended other than with 0, or another process of the activation did
    after that one had ended; the time is up; somebody stopped it. Processes that all
    ended with 0 are no reason yet: they may have left the name to an instance that is
    no child of theirs. Its time is up when the last of them has been gone for the
    handover timeout (0: at once), and no later than that of the activation.
3.  Names, deaths and requests arrive on different ways, so what is heard next
    may have happened before. The order is had by asking the bus who owns the
    name (``ConfirmOwner``): all that it had said by then is handled first.
    - The engine asks once for a name, until it is owned. An owner that is heard of
      after the request may have lost the name before it: that must not pass for an
      answer, or the engine would wait for nobody. A process that is started for the
      request cannot have, so whoever waited when a start began asks nothing. Any other
      owner is asked about. So is the name, by a request that comes during a start or
      while it is owned: it may have been taken and lost again.
    - An owner that has gone before the bus could say whose process it was is taken for
      ours if we heard of it during the start. It may still have been anybody, and before
      the request: the engine is let go as well.
    - Each death that could end an activation asks: the name may have been taken
      before. Only the newest answer can say that it was not.
    - A timer is heard of when the bus has been asked as well, so what the service did in
      time comes before it (``broker.services.deadline``).
4.  What a failed activation leaves running is ended: SIGTERM, then SIGKILL
    after the stop timeout. However it failed, what serves somebody by another name stays,
    and the service is ``lingering`` when the rest has gone: the bus is asked at that
    moment who owns one, and not followed. A stop that somebody asks for ends these, too.
    A service that gave its name up may take its time (``lingering``); it is ended only
    when asked for. A stop is complete with the last process: the bus may still have to
    say that the name is free, and is not waited for.
5.  A request while the service is being ended waits, and starts it anew
    afterwards; it fails if even SIGKILL ends nothing for as long as a start may take.
    Only the processes of the newest activation count for rule 2.
6.  Failures are: an activation that failed (being stopped is none), and a main
    process that ended other than cleanly after the service had its name, unless
    somebody asked for its end or somebody else had the name. Too many failed activations
    close the gate (``start_limit``), which protects the machine from a service that
    cannot start: so one into which somebody sent a signal through us does not count for
    it, nor do the gate's own refusals, nor what has served.
7.  When the session ends, nothing is started and nothing fails any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from broker.core import events as ev
from broker.core.state import State
from broker.core.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.clock import Instant
    from broker.core.events import Effect, Event


class Row(NamedTuple):
    """What an event does in a state, and which states may follow, beside the same one."""

    transition: Callable[..., list[Effect]]
    to: frozenset[State]


class Service(Transitions):
    """One activatable name, in one of the states of the table."""

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take an event and say what is to be done, in this order."""
        before = self.state
        if isinstance(event, ev.OwnerConfirmed):
            self.waiting.answered += 1
            if not event.owner and not self.waiting.up_to_date:
                return []  # a newer question is on its way
        row = TRANSITIONS[before, type(event)]
        effects = row.transition(self, event, now)
        assert self.state is before or self.state in row.to, (before, event, self.state)
        self.waiting.asked += effects.count(ev.ConfirmOwner())
        self.changes.note(before, self.state, now)
        self.history.note(self.state, self.result, now)
        return effects


def _row(transition: Callable[..., list[Effect]], *to: State | frozenset[State]) -> Row:
    sets = (each if isinstance(each, frozenset) else frozenset({each}) for each in to)
    return Row(transition, frozenset().union(*sets))


_S = Service
_OWNED: Final = frozenset({State.RUNNING, State.EXTERNAL})
# Without a start that goes on: whatever is left (rule 1), or somebody else's name.
_SETTLED: Final = _OWNED | {State.LINGERING, State.DEAD, State.FAILED}
# A start for those who wait, or the gate that is closed to them.
_ANEW: Final = frozenset({State.START, State.FAILED})
_STOP: Final = State.STOP_SIGTERM

_AT_REST: Final = {
    ev.Requested: _row(_S._serve, _ANEW),
    ev.Spawned: _row(_S._impossible),
    ev.SpawnRefused: _row(_S._impossible),
    ev.NameAcquired: _row(_S._acquired, _OWNED),
    ev.NameLost: _row(_S._lost_late),
    ev.ProcessExited: _row(_S._exited),
    ev.Emptied: _row(_S._note_emptied),
    ev.OnlyServing: _row(_S._ignore),
    ev.OwnerConfirmed: _row(_S._ignore),
    ev.TimerFired: _row(_S._ignore),
    ev.StopRequested: _row(_S._stop_idle),
    ev.Signalled: _row(_S._ignore),
    ev.Closing: _row(_S._close),
    ev.ResetFailed: _row(_S._reset),
}
_WITH_OWNER: Final = {
    **_AT_REST,
    ev.Requested: _row(_S._serve),
    ev.NameLost: _row(_S._lost, _SETTLED, _ANEW),
    ev.OwnerConfirmed: _row(_S._confirmed_running, _SETTLED, _ANEW),
    ev.StopRequested: _row(_S._stop, _STOP, _SETTLED, _ANEW),
}
_STOPPING: Final = {
    **_AT_REST,
    ev.Requested: _row(_S._wait_for_end),
    ev.NameAcquired: _row(_S._note_owner),
    ev.Emptied: _row(_S._emptied_ending, _SETTLED, _ANEW),
    ev.OnlyServing: _row(_S._spared, _SETTLED, _ANEW),
    ev.TimerFired: _row(_S._stop_timeout, State.STOP_SIGKILL),
    ev.StopRequested: _row(_S._stop_stopping, _STOP),
}
_BY_STATE: Final = {
    State.DEAD: _AT_REST,
    State.FAILED: {**_AT_REST, ev.ResetFailed: _row(_S._reset, State.DEAD)},
    State.START: {
        ev.Requested: _row(_S._join),
        ev.Spawned: _row(_S._spawned),
        ev.SpawnRefused: _row(_S._spawn_refused, _STOP, _SETTLED),
        ev.NameAcquired: _row(_S._acquired_start, _OWNED),
        ev.NameLost: _row(_S._lost_start),
        ev.ProcessExited: _row(_S._exited_start),
        ev.Emptied: _row(_S._emptied_start),
        ev.OnlyServing: _row(_S._ignore),
        ev.OwnerConfirmed: _row(_S._confirmed_start, _STOP, _SETTLED),
        ev.TimerFired: _row(_S._start_timeout, _STOP, _SETTLED),
        ev.StopRequested: _row(_S._stop_start, _STOP, _SETTLED),
        ev.Signalled: _row(_S._signalled_start),
        ev.Closing: _row(_S._close, _STOP, _SETTLED),
        ev.ResetFailed: _row(_S._reset),
    },
    State.RUNNING: _WITH_OWNER,
    State.EXTERNAL: _WITH_OWNER,
    State.LINGERING: {
        **_AT_REST,
        ev.Emptied: _row(_S._emptied_ending, _SETTLED, _ANEW),
        ev.StopRequested: _row(_S._stop, _STOP, _SETTLED, _ANEW),
    },
    State.STOP_SIGTERM: _STOPPING,
    State.STOP_SIGKILL: _STOPPING,
}
# Every state knows every event: what cannot happen is said to be impossible.
TRANSITIONS: Final[dict[tuple[State, type[Event]], Row]] = {
    (state, event): row for state, rows in _BY_STATE.items() for event, row in rows.items()
}
