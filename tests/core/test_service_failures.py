"""Rules 6 and 7: what is a failure, what too many of them do, and the end of the session."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from broker.core import events as ev
from broker.core.events import Event, Timer
from broker.core.exits import CLEAN_SIGNALS, Exit, Result
from broker.core.state import State
from broker.errors import (
    ShuttingDown,
    StartLimitHit,
)
from tests.core.stage import (
    ALL_GONE,
    ASK,
    BURST,
    CLOSING,
    EXIT_0,
    EXIT_3,
    FIRST,
    INTERVAL,
    KILL,
    LOST,
    NOBODY,
    RESET,
    SECOND_REQUEST,
    SEGV,
    SIGNALLED,
    SIGTERM_ALL,
    SPAWN,
    STOP,
    STOPPED,
    TAKEN_BY_FOREIGN,
    TAKEN_BY_OTHER,
    TERM,
    WAYS,
    Play,
    completed,
    ended,
    fires,
    in_state,
    owned_by,
    refused,
    running,
    served,
    spawned,
    starting,
    the_error,
    the_failure,
    took,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# -- rule 6: failures --------------------------------------------------------------------


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_but_0_of_a_running_service_is_a_failure(status: int) -> None:
    play = running()
    play.do(ended(10, Exit(1, status)), ALL_GONE, LOST)
    clean = (State.DEAD, Result.SUCCESS, 0)
    assert play.end == (clean if status == 0 else (State.FAILED, Result.EXIT_CODE, 1))
    assert play.exec_main == (10, Exit(1, status))


@pytest.mark.parametrize("code", [2, 3])
@pytest.mark.parametrize("number", range(1, 65))
def test_every_signal_but_four_is_a_failure_of_a_running_service(code: int, number: int) -> None:
    """SIGHUP, SIGINT, SIGPIPE, SIGTERM; and a core is never clean."""
    play = running()
    play.do(ended(10, Exit(code, number)), ALL_GONE, LOST)
    result = Result.SIGNAL if code == 2 else Result.CORE_DUMP
    clean = code == 2 and number in {1, 2, 13, 15}
    assert play.end == ((State.DEAD, Result.SUCCESS, 0) if clean else (State.FAILED, result, 1))


def test_clean_signals_are_those_four() -> None:
    assert sorted(CLEAN_SIGNALS) == [1, 2, 13, 15]


@pytest.mark.parametrize("state", [State.RUNNING, State.LINGERING])
def test_bad_end_of_the_main_process_counts_at_once(state: State) -> None:
    play = in_state(state)
    play.do(ended(10, SEGV))
    assert play.end == (state, Result.SIGNAL, 1)


def test_bad_end_of_another_process_is_no_failure() -> None:
    play = running()
    play.do(ended(11, SEGV), ended(10, EXIT_0), ALL_GONE, LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


@pytest.mark.parametrize("taken", [TAKEN_BY_FOREIGN, TAKEN_BY_OTHER])
def test_bad_end_of_our_process_is_no_failure_when_somebody_else_had_the_name(
    taken: ev.NameAcquired,
) -> None:
    for order in ([ended(10, EXIT_3), LOST], [LOST, ended(10, EXIT_3)]):
        play = starting()
        play.do(*served(taken), *order, ALL_GONE)
        assert play.end == (State.DEAD, Result.SUCCESS, 0)


def crash(play: Play, pid: int) -> None:
    """One more activation that fails."""
    play.do(ev.Requested(pid), spawned(pid), ended(pid, SEGV), NOBODY, ALL_GONE)


def at_the_limit() -> Play:
    play = Play()
    for pid in range(20, 20 + BURST):
        assert play.service.result is not Result.START_LIMIT_HIT
        crash(play, pid)
    assert play.service.failures == BURST
    return play


def test_too_many_failures_close_the_gate() -> None:
    play = at_the_limit()
    effects = play.do(FIRST)
    assert len(effects) == 1  # nothing is spawned, no timer
    assert the_failure(effects).tokens == ("first",)
    assert isinstance(the_error(effects), StartLimitHit)
    assert "3 times within 60 s" in str(the_error(effects))
    assert (play.state, play.service.result) == (State.FAILED, Result.START_LIMIT_HIT)


def test_crashes_of_a_service_that_has_served_leave_the_gate_open() -> None:
    """Also where they are seen before the name."""
    play = Play()
    for pid in range(20, 20 + 2 * BURST, 2):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), took(pid), ended(pid, SEGV), ALL_GONE, LOST)
        other = pid + 1
        assert play.do(ev.Requested(other)) == SPAWN
        play.do(spawned(other), ended(other, SEGV), ALL_GONE, took(other), LOST, NOBODY, NOBODY)
        assert (play.state, play.service.result) == (State.FAILED, Result.SIGNAL)
    assert play.service.failures == 2 * BURST


def test_signals_that_somebody_sent_leave_the_gate_open() -> None:
    play = Play()
    for pid in range(20, 20 + BURST):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), SIGNALLED, ended(pid, KILL), NOBODY, ALL_GONE)
        assert play.end == (State.FAILED, Result.SIGNAL, pid - 19)
    # The next ones count again.
    for pid in range(30, 30 + BURST):
        crash(play, pid)
    assert isinstance(the_error(play.do(FIRST)), StartLimitHit)


def test_refusal_of_the_gate_does_not_count_so_it_opens_in_time() -> None:
    play = Play()
    crash(play, 20)
    oldest = play.seconds - 1  # the failure came with the last event but one
    for pid in range(21, 20 + BURST):
        crash(play, pid)
    for _ in range(3):
        assert isinstance(the_error(play.do(FIRST)), StartLimitHit)
    assert (play.service.failures, play.service.activations) == (BURST, BURST)
    play.seconds = oldest + INTERVAL - 2
    assert isinstance(the_error(play.do(FIRST)), StartLimitHit)
    assert play.seconds == oldest + INTERVAL - 1
    assert play.do(FIRST) == SPAWN
    assert (play.state, play.service.result) == (State.START, Result.SUCCESS)


def test_closed_gate_is_a_failure_also_of_a_service_that_was_well_since() -> None:
    play = at_the_limit()
    play.do(TAKEN_BY_FOREIGN, LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, BURST)
    assert isinstance(the_error(play.do(FIRST)), StartLimitHit)
    assert play.end == (State.FAILED, Result.START_LIMIT_HIT, BURST)


def test_reset_opens_the_gate_and_forgets_the_failure() -> None:
    play = at_the_limit()
    play.do(FIRST)
    assert play.do(RESET) == []
    assert (play.state, play.service.result) == (State.DEAD, Result.SUCCESS)
    assert play.do(FIRST) == SPAWN


def test_reset_forgets_a_failure_that_is_not_shown_yet() -> None:
    play = starting()
    play.do(fires(Timer.ACTIVATION), RESET, ended(10, TERM), ALL_GONE)
    assert (play.state, play.service.result) == (State.DEAD, Result.SUCCESS)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("state", State)
def test_reset_counts_in_every_state(state: State, reset: bool) -> None:
    """With one failure less than it takes, one more closes the gate, or does not."""
    play = Play()
    for pid in range(20, 20 + BURST - 1):
        crash(play, pid)
    ways: dict[State, Sequence[Event]] = {
        **WAYS,
        State.DEAD: [TAKEN_BY_FOREIGN, LOST],
        State.FAILED: [],
    }
    play.do(*ways[state])
    assert play.state is state
    if reset:
        play.do(RESET)
    play.do(STOP)
    if play.service.stoppable:
        play.do(ended(10, TERM), ALL_GONE)
    if play.service.owner:
        play.do(LOST)
    crash(play, 30)
    assert (play.do(SECOND_REQUEST) == SPAWN) == reset


def test_reset_leaves_what_runs_alone() -> None:
    for state in State:
        play = in_state(state)
        assert play.do(RESET) == []
        assert play.state is (State.DEAD if state is State.FAILED else state)


def test_idle_exit_leaves_the_start_limit_alone_however_often() -> None:
    play = Play()
    for pid in range(20, 20 + 5 * BURST):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), took(pid), ended(pid, EXIT_0), ALL_GONE, LOST)
        assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_stops_leave_the_start_limit_alone_however_often() -> None:
    play = Play()
    for pid in range(20, 20 + 5 * BURST):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), STOP, ended(pid, KILL), ALL_GONE)
        assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_gate_does_not_hide_what_lingers() -> None:
    play = at_the_limit()
    play.do(RESET, FIRST, spawned(), took(), LOST)
    for pid in range(30, 30 + BURST):
        play.do(ev.Requested(pid), refused())
    assert isinstance(the_error(play.do(SECOND_REQUEST)), StartLimitHit)
    assert play.state is State.LINGERING
    play.do(ended(10, EXIT_0), ALL_GONE)
    assert (play.state, play.service.result) == (State.FAILED, Result.START_LIMIT_HIT)


# -- rule 7: the end of the session --------------------------------------------------------


def drive_to_rest(play: Play) -> None:
    """The end of a session: everything is stopped, dies badly, and loses its name."""
    play.do(STOP)
    if play.service.stoppable:
        play.do(fires(Timer.STOP), ended(10, SEGV), ALL_GONE)
    if play.service.owner:
        play.do(LOST)


@pytest.mark.parametrize("state", State)
def test_closing_starts_nothing_and_lets_nothing_fail(state: State) -> None:
    play = in_state(state)
    effects_before, before = len(play.effects), play.service.failures
    play.do(CLOSING)
    drive_to_rest(play)
    after = play.effects[effects_before:]
    assert ev.Spawn() not in after
    assert ev.CompleteStop() in after
    assert play.service.failures == before
    assert play.state is (State.FAILED if state is State.FAILED else State.DEAD)


@pytest.mark.parametrize("state", State)
def test_closing_refuses_every_request_that_would_start_something(state: State) -> None:
    play = in_state(state)
    play.do(CLOSING)
    effects = play.do(SECOND_REQUEST)
    if effects == ASK:
        effects = play.do(NOBODY)
    assert the_failure(effects).tokens == ("second",)
    assert isinstance(the_error(effects), ShuttingDown)
    assert ev.Spawn() not in effects


@pytest.mark.parametrize("state", State)
def test_closing_refuses_who_waits_already(state: State) -> None:
    play = in_state(state)
    play.do(SECOND_REQUEST)
    effects = play.do(CLOSING)
    assert "second" in the_failure(effects).tokens
    assert isinstance(the_error(effects), ShuttingDown)


def test_closing_ends_a_start() -> None:
    play = starting()
    effects = play.do(CLOSING)
    assert (effects[0], effects[2:]) == (ev.CancelTimer(), SIGTERM_ALL)
    assert isinstance(the_error(effects), ShuttingDown)
    assert play.do(STOP) == []  # follows for every service, and waits for the end
    assert play.do(ended(10, TERM), ALL_GONE) == STOPPED
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_closing_tells_nobody_where_nobody_waits() -> None:
    for state in set(State) - {State.START}:
        assert in_state(state).do(CLOSING) == []


def test_owned_name_is_still_served_while_closing() -> None:
    play = running()
    play.do(CLOSING)
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(owned_by()) == [completed("second")]


def test_crash_while_closing_is_no_failure() -> None:
    play = running()
    play.do(CLOSING, ended(10, SEGV), ALL_GONE, LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_closing_during_a_stop_that_somebody_wants_undone() -> None:
    """A request that waits for the end is refused, whichever of the three comes first."""
    events: list[Event] = [SECOND_REQUEST, STOP, CLOSING]
    for order in itertools.permutations(events):
        play = running()
        play.do(*order)
        if play.state is State.RUNNING:
            play.do(STOP)
        play.do(ended(10, TERM), ALL_GONE, LOST)
        assert play.state is State.DEAD
        assert play.effects.count(ev.Spawn()) == 1
        assert isinstance(the_error(play.effects), ShuttingDown)
