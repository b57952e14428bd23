"""The life of a service: a pure state machine. Events in, effects out.

The rules, which the table below only spells out:

1.  The bus is the authority on names, the kernel on processes. A service runs
    while its name is owned; it is gone when the name is lost *and* its last
    process has been reaped, in whichever order we hear of the two.
2.  An activation ends once: with the name owned, or with a reason as soon as
    the reason exists. The reasons are: the program could not be started; the first
    process exited other than with 0; another process of the activation did so after
    the end of the first; the timeout; a stop request. If all processes exited with 0,
    that is no reason yet: they may have left the name to an instance that is not
    their child. The activation then fails after the handover timeout from the last
    exit (0: at once), and no later than its own timeout.
3.  Names, deaths and requests arrive on three channels, so we may hear of events out
    of order. Asking the bus for the name's owner (``ConfirmOwner``) restores the order:
    the bus's earlier messages are handled before its answer.
    - The engine requests a name once, until it is owned. An owner that we hear of after
      the request may have lost the name before it. Such an owner must not count as an
      answer, or the engine would wait for an owner that is gone. A process that was
      started for the request cannot have lost the name before, so the requests that were
      waiting when the start began need no question. Any other owner needs one. So does a
      request during a start or while the name is owned: the name may have been taken
      and lost again.
    - An owner may be gone before the bus could name its process. If we heard of it during
      the start, we take it for ours. It may still have been a foreign process, and from
      before the request: so the engine's request is dismissed as well.
    - Each death that could end an activation asks, since the name may have been taken
      before. Only the newest answer can say that it was not.
    - A timer is judged after a question to the bus as well, so the service's actions in
      time are handled before it (``broker.services.deadline``).

    Three sequences, each with its test in ``tests/core/test_service_asks.py``.

    Death before name:
    ``test_crash_after_the_name_counts_though_it_was_seen_before_the_name``::

        what happens                  what we hear      what we do
        the process takes the name
        the process crashes           ProcessExited     ConfirmOwner: was the name taken before?
                                      NameAcquired      complete the start; count the crash

    Owner from before the request: ``test_owner_from_before_the_start_serves_nobody``::

        what happens                  what we hear      what we do
        a stranger takes the name
        the stranger loses it
        the engine requests it        Requested         Spawn
                                      NameAcquired      ConfirmOwner: does it own the name now?
                                      NameLost          nothing: the start goes on
                                      OwnerConfirmed    nothing: no owner, as we know

    Request after the loss:
    ``test_request_while_owned_is_one_after_the_loss_that_is_on_its_way``::

        what happens                  what we hear      what we do
        the owner loses the name
        the engine requests it        Requested         ConfirmOwner: the name seems owned
                                      NameLost          Spawn

4.  The processes of a failed activation are ended: SIGTERM, then SIGKILL after the
    stop timeout. Processes that own another name stay, whatever the failure, and the
    service is ``lingering`` when the others are gone: the bus is asked for the owners
    at that moment, and they are not followed afterwards. A stop request ends them, too.
    A service that gave its name up may take its time (``lingering``); only a stop request
    ends it. A stop is complete with the last process: it does not wait for the bus to
    say that the name is free.
5.  A request while the service is being ended waits, and starts it anew
    afterwards; it fails if processes survive SIGKILL for as long as a start may take.
    Only the processes of the newest activation count for rule 2.
6.  Failures are: a failed activation (a stopped one is none), and an unclean exit of
    the main process after the service had its name, unless its end was requested or
    a foreign process had the name. Too many failed activations close the gate
    (``start_limit``), which protects the machine from a service that cannot start. So
    the gate counts neither an activation whose processes a client signalled through us,
    nor its own refusals, nor failures of a service that had its name.
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
    """The transition for an event in a state, and the states that it may change to."""

    transition: Callable[..., list[Effect]]
    to: frozenset[State]


class Service(Transitions):
    """One activatable name, in one of the states of the table."""

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Handle an event; returns its effects in the order in which to carry them out."""
        before = self.state
        if isinstance(event, ev.OwnerConfirmed):
            self.waiting.answered += 1
            if not event.owner and not self.waiting.up_to_date:
                return []  # a newer question is open
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
# The states when no start or stop is under way (rule 1).
_SETTLED: Final = _OWNED | {State.LINGERING, State.DEAD, State.FAILED}
# A start for the waiters, or the closed gate.
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
# Every state handles every event; those that cannot happen are marked as impossible.
TRANSITIONS: Final[dict[tuple[State, type[Event]], Row]] = {
    (state, event): row for state, rows in _BY_STATE.items() for event, row in rows.items()
}
