"""Rules 2, 4 and 5: how an activation fails, what is left is ended, and who wants it meanwhile."""

from __future__ import annotations

import itertools

import pytest

from broker.core import events as ev
from broker.core.events import Timer
from broker.core.exits import UNKNOWN_EXIT, Exit, Result
from broker.core.state import State
from broker.errors import (
    SpawnChildExited,
    SpawnChildSignaled,
    SpawnExecFailed,
    SpawnFailed,
    TimedOut,
)
from tests.core.stage import (
    ABORT_DUMPED,
    ALL_GONE,
    ASK,
    EXIT_0,
    EXIT_3,
    FIRST,
    HANDED_OVER,
    HUP,
    KILL,
    LOST,
    NAME,
    NOBODY,
    OLDER_LEFT,
    ONLY_SERVING,
    SECOND_REQUEST,
    SEGV,
    SIGKILL_ALL,
    SIGKILL_OTHERS,
    SIGTERM_ALL,
    SIGTERM_OTHERS,
    SPARE,
    SPAWN,
    STOP,
    STOPPED,
    TAKEN_BY_FOREIGN,
    TAKEN_BY_OTHER,
    TERM,
    Play,
    born,
    completed,
    ended,
    fires,
    in_state,
    lingering,
    owned_by,
    refused,
    served,
    spawned,
    starting,
    stopping,
    the_error,
    the_failure,
    took,
)

# -- rule 2: an activation ends once, as soon as the reason exists ---------------------


def test_exit_status_of_the_process_is_a_reason() -> None:
    play = starting()
    assert play.do(ended(10, EXIT_3)) == ASK
    play.do(ALL_GONE, NOBODY)
    effects = play.do(NOBODY)
    assert effects[0] == ev.CancelTimer()
    assert the_failure(effects).tokens == ("first",)
    assert isinstance(the_error(effects), SpawnChildExited)
    assert str(the_error(effects)) == f"Process {NAME} exited with status 3"
    assert play.end == (State.FAILED, Result.EXIT_CODE, 1)
    assert (play.service.main.pid, play.exec_main) == (0, (10, EXIT_3))


def test_process_that_exits_with_a_status_is_a_reason_before_the_others_have_gone() -> None:
    play = starting()
    play.do(ended(10, EXIT_3))
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildExited)
    assert effects[-1:] == SPARE  # rule 4
    play.do(ended(11, TERM), ALL_GONE)
    assert play.end == (State.FAILED, Result.EXIT_CODE, 1)
    assert play.exec_main == (10, EXIT_3)


@pytest.mark.parametrize(
    ("end", "result"), [(SEGV, Result.SIGNAL), (ABORT_DUMPED, Result.CORE_DUMP)]
)
def test_signal_that_ends_the_process_is_a_reason(end: Exit, result: Result) -> None:
    play = starting()
    play.do(ended(10, end))
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildSignaled)
    assert str(the_error(effects)) == f"Process {NAME} received signal {end.status}"
    assert (play.service.result, play.exec_main) == (result, (10, end))


@pytest.mark.parametrize("end", [TERM, HUP])
def test_clean_signal_is_a_reason_too_before_the_name_is_owned(end: Exit) -> None:
    play = starting()
    play.do(ended(10, end))
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildSignaled)
    assert play.service.result is Result.SIGNAL


def test_exit_with_0_is_no_reason_since_it_may_have_daemonized() -> None:
    play = starting()
    assert play.do(ended(10, EXIT_0)) == []
    assert (play.state, play.service.main.pid, play.exec_main) == (State.START, 0, (10, EXIT_0))
    assert play.do(took(12)) == [ev.CancelTimer(), completed("first")]
    assert (play.state, play.service.main.pid) == (State.RUNNING, 12)
    assert (play.exec_main, play.service.main.started) == ((12, UNKNOWN_EXIT), born(12))


@pytest.mark.parametrize("end", [EXIT_0, UNKNOWN_EXIT])
def test_exit_with_0_of_all_is_a_protocol_failure_when_nobody_has_taken_over_in_time(
    end: Exit,
) -> None:
    play = starting()
    play.do(ended(10, end))
    assert play.do(ALL_GONE) == HANDED_OVER
    assert (play.state, play.service.main.pid) == (State.START, 0)
    effects = play.do(fires(Timer.HANDOVER))
    assert isinstance(the_error(effects), SpawnChildExited)
    assert "status 0" in str(the_error(effects))
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)
    assert play.exec_main == (10, end)


def test_exit_with_0_of_all_is_a_failure_at_once_where_nobody_can_take_over() -> None:
    play = Play(FIRST, spawned(), ended(10, EXIT_0), handover=0.0)
    assert play.do(ALL_GONE) == ASK
    assert "status 0" in str(the_error(play.do(NOBODY)))
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)


@pytest.mark.parametrize("taken", [TAKEN_BY_FOREIGN, TAKEN_BY_OTHER])
def test_whoever_takes_the_name_over_serves_all_who_wait(taken: ev.NameAcquired) -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ALL_GONE)
    assert play.do(SECOND_REQUEST) == ASK  # no spawn, and no new time
    play.do(NOBODY, taken)
    done = [ev.CancelTimer(), completed("first", "second")]
    assert play.do(ev.OwnerConfirmed(taken.owner)) == done
    assert play.state is (State.EXTERNAL if taken is TAKEN_BY_FOREIGN else State.RUNNING)
    assert play.service.failures == 0


def test_stop_ends_the_wait_for_who_takes_over() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ALL_GONE)
    effects = play.do(STOP)
    assert isinstance(the_error(effects), SpawnFailed)
    assert effects[-1] == ev.CompleteStop()
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_wait_for_who_takes_over_ends_with_the_time_for_the_activation() -> None:
    play = starting()  # two seconds ago
    play.seconds += 25 - 5 - 3
    play.do(ended(10, EXIT_0))
    assert play.do(ALL_GONE) == []  # the time that runs is up sooner
    assert "status 0" in str(the_error(play.do(fires(Timer.ACTIVATION))))
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)


def test_wait_for_who_takes_over_begins_once() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ALL_GONE)
    assert play.do(ALL_GONE) == []


def test_bad_end_of_a_daemon_is_a_reason_before_the_others_have_gone() -> None:
    for order in itertools.permutations([ended(10, EXIT_0), ended(11, SEGV)]):
        play = starting()
        assert play.do(*order) == ASK
        assert play.do(ended(12, EXIT_3)) == []  # one answer is enough
        effects = play.do(NOBODY)
        assert isinstance(the_error(effects), SpawnChildExited)
        assert effects[-1:] == SPARE


def test_daemon_that_crashes_before_the_name_decides_the_activation() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV))
    at = play.now
    play.do(ALL_GONE, NOBODY)
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildSignaled)
    assert str(the_error(effects)) == f"Process {NAME} received signal 11"
    assert play.end == (State.FAILED, Result.SIGNAL, 1)
    assert (play.service.main.pid, play.exec_main) == (0, (11, SEGV))
    assert (play.service.main.started, play.service.main.ended) == (born(11), at)


def test_crash_is_not_hidden_by_a_helper_that_ends_well_after_it() -> None:
    """The dead are reaped in no order that means anything."""
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV), ended(12, EXIT_0), ALL_GONE, NOBODY)
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildSignaled)
    assert play.exec_main == (11, SEGV)


def test_of_several_bad_ends_the_newest_is_named() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV), ended(12, EXIT_3), ALL_GONE, NOBODY)
    assert str(the_error(play.do(NOBODY))) == f"Process {NAME} exited with status 3"


def test_status_of_the_first_process_goes_before_what_others_left() -> None:
    for order in itertools.permutations([ended(11, SEGV), ended(10, EXIT_3)]):
        play = starting()
        play.do(*order, ALL_GONE, NOBODY)
        assert str(the_error(play.do(NOBODY))) == f"Process {NAME} exited with status 3"
        assert play.exec_main == (10, EXIT_3)


def test_end_of_another_process_is_no_reason_while_the_first_one_lives() -> None:
    play = starting()
    assert play.do(ended(11, SEGV)) == []
    assert play.state is State.START


def test_time_that_is_up_is_a_reason() -> None:
    play = starting()
    effects = play.do(fires(Timer.ACTIVATION))
    assert isinstance(the_error(effects), TimedOut)
    assert "25 s" in str(the_error(effects))
    assert NAME in str(the_error(effects))
    assert effects[-1:] == SPARE
    assert (play.state, play.service.result) == (State.STOP_SIGTERM, Result.TIMEOUT)
    play.do(ended(10, TERM), ALL_GONE)
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


def test_program_that_cannot_be_started_is_a_reason() -> None:
    play = Play(FIRST)
    event = ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED)
    effects = play.do(event)
    assert effects == [ev.CancelTimer(), ev.FailActivation(("first",), event.error)]
    assert play.end == (State.FAILED, Result.EXEC_FAILED, 1)
    assert (play.service.main.pid, play.service.stoppable) == (0, False)


def test_everyone_who_waits_hears_the_reason() -> None:
    play = starting()
    play.do(SECOND_REQUEST)
    assert the_failure(play.do(fires(Timer.ACTIVATION))).tokens == ("first", "second")


def test_failed_service_is_started_again_on_request() -> None:
    play = in_state(State.FAILED)
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(11), took(11))
    assert play.end == (State.RUNNING, Result.SUCCESS, 1)


# -- rule 4: what is left is ended ------------------------------------------------------


def test_failed_activation_is_ended_with_sigterm_then_sigkill_until_nothing_is_left() -> None:
    play = starting()
    effects = play.do(fires(Timer.ACTIVATION))
    assert effects[-1:] == SPARE
    assert play.do(fires(Timer.SERVING)) == SIGTERM_OTHERS
    for timer in (Timer.STOP, Timer.KILL, Timer.KILL, Timer.KILL):
        assert play.do(fires(timer)) == SIGKILL_OTHERS
        assert play.state is State.STOP_SIGKILL
    assert play.do(ended(10, KILL), ALL_GONE) == STOPPED
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


def spared() -> Play:
    """A failed activation has left a process that serves somebody by another name."""
    play = starting()
    play.do(fires(Timer.ACTIVATION), fires(Timer.SERVING), ended(11, TERM))
    assert play.do(ONLY_SERVING) == [ev.CancelTimer()]
    return play


def test_what_serves_somebody_by_another_name_outlives_a_failed_activation() -> None:
    play = spared()
    assert play.end == (State.LINGERING, Result.TIMEOUT, 1)
    assert play.service.main.pid == 10
    # Its own end is no second failure.
    play.do(ended(10, SEGV), ALL_GONE)
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


def test_what_was_spared_is_started_anew_beside_and_may_take_the_name_after_all() -> None:
    play = spared()
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(11))
    assert play.do(took(10, current=False)) == ASK
    assert play.do(owned_by(10)) == [ev.CancelTimer(), completed("second")]
    assert play.end == (State.RUNNING, Result.SUCCESS, 1)


def test_what_was_spared_is_ended_when_somebody_asks_for_it() -> None:
    assert spared().do(STOP) == SIGTERM_ALL


def test_stop_while_others_are_ended_ends_what_is_spared_as_well() -> None:
    for before in ([], [fires(Timer.SERVING)], [fires(Timer.SERVING), fires(Timer.STOP)]):
        play = starting()
        play.do(fires(Timer.ACTIVATION), *before)
        assert play.do(STOP) == [ev.CancelTimer(), *SIGTERM_ALL]
        assert play.state is State.STOP_SIGTERM
        assert play.do(STOP) == []
        assert play.do(ONLY_SERVING) == []
        assert play.do(ended(10, TERM), ALL_GONE) == STOPPED


def test_spared_process_that_takes_the_name_while_others_are_ended_serves_who_waits() -> None:
    play = starting()
    play.do(fires(Timer.ACTIVATION), fires(Timer.SERVING), SECOND_REQUEST, took())
    assert play.do(ONLY_SERVING) == [ev.CancelTimer(), *ASK]
    assert play.do(owned_by()) == [completed("second")]
    assert play.end == (State.RUNNING, Result.SUCCESS, 1)


def test_request_while_others_are_ended_starts_anew_beside_what_is_spared() -> None:
    play = starting()
    play.do(fires(Timer.ACTIVATION), fires(Timer.SERVING), SECOND_REQUEST, took(), LOST)
    assert play.do(ONLY_SERVING) == [ev.CancelTimer(), *SPAWN]


def test_lingering_service_is_left_in_peace() -> None:
    play = lingering()
    assert [each for each in play.effects if isinstance(each, ev.SignalAll)] == []
    assert play.do(STOP) == SIGTERM_ALL


@pytest.mark.parametrize("state", [State.RUNNING, State.EXTERNAL, State.LINGERING])
def test_stop_is_complete_when_the_last_process_has_gone(state: State) -> None:
    play = in_state(state)
    assert play.do(STOP) == SIGTERM_ALL
    assert play.do(STOP) == []  # who asks again waits for the same end
    assert play.do(ended(10, TERM), OLDER_LEFT) == []
    assert play.do(ALL_GONE) == STOPPED
    assert play.service.main.pid == 0


def test_stop_of_a_running_service_is_no_failure_however_it_ends() -> None:
    for end in (EXIT_0, EXIT_3, SEGV, KILL, ABORT_DUMPED):
        play = stopping()
        play.do(fires(Timer.STOP), ended(10, end), ALL_GONE, LOST)
        assert play.end == (State.DEAD, Result.SUCCESS, 0)
        assert play.exec_main == (10, end)


@pytest.mark.parametrize("state", [State.DEAD, State.FAILED])
def test_stop_at_rest_is_complete_at_once(state: State) -> None:
    play = in_state(state)
    assert play.do(STOP) == [ev.CompleteStop()]
    assert play.state is state


@pytest.mark.parametrize("taken", [TAKEN_BY_FOREIGN, TAKEN_BY_OTHER])
def test_stop_leaves_a_name_that_somebody_else_has(taken: ev.NameAcquired) -> None:
    play = starting()
    play.do(*served(taken), ended(10, EXIT_0), ALL_GONE)
    before = play.state
    assert play.do(STOP) == [ev.CompleteStop()]
    assert play.state is before
    assert play.service.taken


def test_stop_is_complete_at_once_when_only_the_name_is_left() -> None:
    """Whoever stopped it is not to read that it is running still."""
    play = starting()
    play.do(took(), ended(10, EXIT_0), ALL_GONE)
    for _ in range(2):
        assert play.do(STOP)[-1] == ev.CompleteStop()
        assert play.state is State.DEAD
        assert not play.service.taken
    play.do(LOST)
    assert (play.state, play.service.owner) == (State.DEAD, "")


def test_stop_when_only_the_name_is_left_starts_anew_for_who_waits() -> None:
    play = starting()
    play.do(took(), ended(10, EXIT_0), ALL_GONE)
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(STOP) == [*STOPPED, *SPAWN]
    play.do(spawned(20), NOBODY, LOST, took(20))
    assert play.effects[-1] == completed("second")
    assert play.state is State.RUNNING


def test_stop_during_a_start_tells_who_waits() -> None:
    play = starting()
    play.do(SECOND_REQUEST)
    effects = play.do(STOP)
    assert (effects[0], effects[2:]) == (ev.CancelTimer(), SIGTERM_ALL)
    assert the_failure(effects).tokens == ("first", "second")
    assert isinstance(the_error(effects), SpawnFailed)
    assert "stopped" in str(the_error(effects))
    assert play.do(ended(10, TERM), ALL_GONE) == STOPPED
    assert play.end == (State.DEAD, Result.SUCCESS, 0)  # rule 6: no failure


def test_stop_during_a_start_whose_processes_have_gone_is_complete_at_once() -> None:
    play = starting()
    play.do(ended(10, EXIT_3), ALL_GONE)
    effects = play.do(STOP)
    assert isinstance(the_error(effects), SpawnFailed)
    assert effects[-1] == ev.CompleteStop()
    assert play.end == (State.DEAD, Result.SUCCESS, 0)
    assert play.do(NOBODY) == []
    assert play.do(NOBODY) == []


def test_name_taken_during_a_stop_is_shown_and_changes_nothing() -> None:
    play = starting()
    play.do(STOP)
    assert play.do(took()) == []
    assert (play.state, play.service.owner) == (State.STOP_SIGTERM, ":1.10")
    assert play.do(LOST) == []
    assert (play.state, play.service.owner) == (State.STOP_SIGTERM, "")


# -- rule 5: requests during the end, and leftovers of older activations ------------------


@pytest.mark.parametrize("state", [State.STOP_SIGTERM, State.STOP_SIGKILL])
def test_request_during_the_end_starts_anew_afterwards(state: State) -> None:
    play = in_state(state)
    assert play.do(SECOND_REQUEST) == []
    assert play.do(ended(10, TERM), ALL_GONE) == [*STOPPED, *SPAWN]
    play.do(spawned(11))
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_request_waits_for_the_end_no_longer_than_for_a_start() -> None:
    play = in_state(State.STOP_SIGKILL)
    play.do(SECOND_REQUEST)
    # A second later each time; a start may take 25.
    for _ in range(24):
        assert play.do(fires(Timer.KILL)) == SIGKILL_ALL
    *others, failure = play.do(fires(Timer.KILL))
    assert others == SIGKILL_ALL
    assert isinstance(failure, ev.FailActivation)
    assert failure.tokens == ("second",)
    assert str(failure.error).endswith("its processes cannot be ended")
    assert (play.state, play.service.failures) == (State.STOP_SIGKILL, 1)
    # With nobody there it goes on in silence; one that comes then is not kept waiting.
    assert play.do(fires(Timer.KILL)) == SIGKILL_ALL
    failure = play.do(ev.Requested("third"), fires(Timer.KILL))[-1]
    assert isinstance(failure, ev.FailActivation)
    assert failure.tokens == ("third",)
    assert play.do(ended(10, KILL), ALL_GONE) == STOPPED


def test_request_while_lingering_starts_anew_beside_the_old_process() -> None:
    play = lingering()
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(11))
    assert play.service.main.pid == 11


def beside_leftover() -> Play:
    """Process 10 is of an older activation, 11 of the one that is starting."""
    return Play(FIRST, spawned(), took(), LOST, SECOND_REQUEST, spawned(11))


def test_bad_end_of_a_leftover_does_not_count_for_the_new_activation() -> None:
    play = beside_leftover()
    assert play.do(ended(10, SEGV, current=False)) == []
    assert play.do(ended(11, EXIT_0), ALL_GONE) == HANDED_OVER
    assert isinstance(the_error(play.do(fires(Timer.HANDOVER))), SpawnChildExited)
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)


def test_bad_end_of_an_activation_before_does_not_count_for_the_next_one() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(12, SEGV), ALL_GONE, NOBODY, NOBODY)
    play.do(SECOND_REQUEST, spawned(11), ended(11, EXIT_0), ALL_GONE)
    assert "status 0" in str(the_error(play.do(fires(Timer.HANDOVER))))


def test_leftover_does_not_keep_the_new_activation_from_failing() -> None:
    play = beside_leftover()
    play.do(ended(11, EXIT_0))
    assert play.do(OLDER_LEFT) == HANDED_OVER
    effects = play.do(fires(Timer.HANDOVER))
    assert isinstance(the_error(effects), SpawnChildExited)
    # What lingered goes on lingering; nobody asked for its end.
    assert ev.SignalAll(15) not in effects
    assert (play.state, play.service.result) == (State.LINGERING, Result.PROTOCOL)
    play.do(ended(10, EXIT_0, current=False), ALL_GONE)
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)


def test_leftover_that_outlives_a_refused_start_goes_on_lingering() -> None:
    play = lingering()
    play.do(SECOND_REQUEST, refused())
    assert (play.state, play.service.result) == (State.LINGERING, Result.EXEC_FAILED)
    assert play.service.main.pid == 10
    # It may even take the name again.
    play.do(took())
    assert (play.state, play.service.main.pid) == (State.RUNNING, 10)
    play.do(ended(10, EXIT_0), ALL_GONE, LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 1)


def test_leftover_that_takes_the_name_again_serves_who_waits() -> None:
    play = beside_leftover()
    assert play.do(took(10)) == [ev.CancelTimer(), completed("second")]
    assert play.service.main.pid == 10
    # The new process finds the name taken: that is its right.
    play.do(ended(11, EXIT_3), OLDER_LEFT)
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert play.service.main.pid == 10


def test_failed_activation_is_ended_together_with_leftovers() -> None:
    play = beside_leftover()
    assert play.do(fires(Timer.ACTIVATION))[-1:] == SPARE
    assert play.do(fires(Timer.SERVING)) == SIGTERM_OTHERS
    assert play.do(ended(11, TERM), OLDER_LEFT) == []
    assert play.do(ended(10, KILL, current=False), ALL_GONE) == STOPPED
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)
