"""Rule 3: the bus is asked, since names, deaths and requests arrive on different ways."""

from __future__ import annotations

from typing import Final

import pytest

from broker.core import events as ev
from broker.core.events import Event, OwnerKind, Timer
from broker.core.exits import Result
from broker.core.recent_exits import RECENT
from broker.core.state import State
from broker.errors import (
    SpawnChildExited,
    TimedOut,
)
from tests.core.stage import (
    ALL_GONE,
    ASK,
    EXIT_0,
    EXIT_3,
    FIRST,
    HANDED_OVER,
    LOST,
    NOBODY,
    SECOND_REQUEST,
    SEGV,
    SPAWN,
    STOP,
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
    running,
    spawned,
    starting,
    stopping,
    the_error,
    the_failure,
    took,
    took_and_went,
)

# -- rule 3: the bus is asked --------------------------------------------------------


def test_death_before_the_name_is_no_failure_of_the_activation_if_the_name_was_taken() -> None:
    play = starting()
    assert play.do(ended(10, EXIT_0)) == []
    assert play.do(ALL_GONE) == HANDED_OVER
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    play.do(LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)
    assert play.exec_main == (10, EXIT_0)


def test_answer_that_names_an_owner_lets_the_activation_go_on() -> None:
    """Who it is will be told next: its PID has to be asked for."""
    play = starting()
    play.do(ended(10, EXIT_3))
    assert play.do(owned_by(12)) == []
    assert play.state is State.START
    assert play.do(took(12)) == [ev.CancelTimer(), completed("first")]


def test_crash_after_the_name_counts_though_it_was_seen_before_the_name() -> None:
    """Else a service could crash in a circle for ever, if it is only fast enough."""
    play = starting()
    play.do(ended(10, SEGV))
    at = play.now
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    assert play.end == (State.RUNNING, Result.SIGNAL, 1)
    assert (play.service.main.pid, play.exec_main) == (0, (10, SEGV))
    assert play.service.main.ended == at


def test_owner_is_known_by_its_start_too_since_pids_come_again() -> None:
    play = starting()
    play.do(ended(11, SEGV))
    again = ev.NameAcquired(":1.11", 11, OwnerKind.OWN, born(500), current=True)
    play.do(again)
    assert (play.service.main.pid, play.service.main.started) == (11, born(500))
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)


def test_first_process_with_a_bad_status_counts_for_nothing_if_its_daemon_took_the_name() -> None:
    play = starting()
    play.do(ended(10, EXIT_3), took(12), owned_by(12))
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert play.service.main.pid == 12


def test_newest_answer_decides_since_older_ones_are_from_before_the_death() -> None:
    play = starting()
    play.do(ended(10, EXIT_3))  # asks
    assert play.do(ALL_GONE) == ASK  # and so does this
    assert play.do(NOBODY) == []
    assert play.state is State.START
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildExited)


def test_answer_for_an_activation_that_is_over_does_not_end_the_next_one() -> None:
    play = starting()
    play.do(ended(10, EXIT_3))  # asks
    play.do(fires(Timer.ACTIVATION), SECOND_REQUEST, ALL_GONE, spawned(11))
    assert play.do(ended(11, EXIT_3)) == ASK
    assert play.do(NOBODY) == []  # to the first question: 11 may have the name since
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_loss_of_an_older_owner_makes_the_answer_that_named_it_void() -> None:
    """The bus may answer before it notices that a connection is closed."""
    play = stopping()
    play.do(SECOND_REQUEST, ended(10, TERM), ALL_GONE, spawned(11))
    assert play.do(ended(11, EXIT_3)) == ASK
    assert play.do(owned_by(10)) == []  # of which nothing is left
    assert play.do(LOST) == ASK
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildExited)


def test_loss_of_an_older_owner_is_no_reason_to_ask_while_all_is_well() -> None:
    play = stopping()
    play.do(SECOND_REQUEST, ended(10, TERM), ALL_GONE, spawned(11))
    assert play.do(LOST) == []
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


@pytest.mark.parametrize("state", [State.RUNNING, State.EXTERNAL])
def test_request_while_owned_asks_the_bus_first(state: State) -> None:
    play = in_state(state)
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(owned_by()) == [completed("second")]
    assert play.state is state


def test_request_for_a_name_that_is_lost_starts_anew_beside_what_lingers() -> None:
    play = running()
    play.do(SECOND_REQUEST)
    assert play.do(LOST) == SPAWN
    play.do(spawned(11))
    # The question is still answered; the new process has done nothing wrong.
    assert play.do(NOBODY) == []
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_request_for_a_name_that_the_bus_denies_starts_anew() -> None:
    play = running()
    play.do(ended(10, EXIT_0), ALL_GONE, SECOND_REQUEST)
    assert play.do(NOBODY) == SPAWN
    assert (play.state, play.service.owner) == (State.START, "")


def test_answer_from_before_a_request_does_not_settle_it() -> None:
    """Its own answer does: in between the name may have been lost, and the engine waits."""
    play = running()
    play.do(ev.Requested("a"), ev.Requested("b"))
    assert play.do(owned_by()) == [completed("a")]
    assert play.do(LOST) == SPAWN
    play.do(spawned(11))
    assert play.do(NOBODY) == []
    assert play.do(took(11)) == [ev.CancelTimer(), completed("b")]


def test_request_that_joins_an_activation_is_completed_when_the_bus_has_confirmed() -> None:
    play = starting()
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    assert play.do(owned_by()) == [completed("second")]


def test_request_that_joins_and_is_answered_before_the_name_needs_no_second_answer() -> None:
    play = starting()
    play.do(SECOND_REQUEST, NOBODY)
    assert play.do(took()) == [ev.CancelTimer(), completed("first", "second")]


def test_requests_that_keep_coming_do_not_keep_the_first_from_being_served() -> None:
    play = starting()
    play.do(ev.Requested("a"), ev.Requested("b"), NOBODY, ev.Requested("c"))
    assert play.do(took()) == [ev.CancelTimer(), completed("first", "a")]
    assert play.do(owned_by()) == [completed("b")]
    assert play.do(owned_by()) == [completed("c")]


def test_request_that_came_after_the_name_was_lost_is_not_forgotten() -> None:
    """The engine asks once. It did so after a loss that we hear of only later."""
    play = starting()
    play.do(SECOND_REQUEST, took())
    assert play.do(LOST) == SPAWN
    play.do(spawned(11), NOBODY)
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


# Who may have had the name, and lost it, before the request.
OLD_NEWS: Final = {
    "foreign": TAKEN_BY_FOREIGN,
    "another service's": TAKEN_BY_OTHER,
    "left over": took(9, current=False),
    "gone": took_and_went(1000),
}


@pytest.mark.parametrize("taken", OLD_NEWS.values(), ids=OLD_NEWS)
def test_owner_from_before_the_start_serves_nobody(taken: Event) -> None:
    """Else the engine, which asked after it had gone, would wait for nobody."""
    play = starting()
    assert play.do(taken) == ASK
    assert play.do(LOST) == []
    assert play.do(NOBODY) == []
    assert (play.state, play.service.owner, play.service.main.pid) == (State.START, "", 10)
    play.do(ended(10, EXIT_3))
    assert the_failure(play.do(NOBODY)).tokens == ("first",)


@pytest.mark.parametrize("taken", OLD_NEWS.values(), ids=OLD_NEWS)
def test_owner_who_may_be_from_before_the_start_serves_when_an_answer_confirms_it(
    taken: ev.NameAcquired,
) -> None:
    play = starting()
    assert play.do(taken) == ASK
    assert play.do(ev.OwnerConfirmed(taken.owner)) == [ev.CancelTimer(), completed("first")]
    external = taken.kind is OwnerKind.FOREIGN
    assert play.state is (State.EXTERNAL if external else State.RUNNING)
    assert play.service.main.pid == (9 if taken.pid == 9 else 10)


def test_each_owner_who_may_be_from_before_the_start_is_asked_about() -> None:
    play = starting()
    assert play.do(TAKEN_BY_FOREIGN) == ASK
    assert play.do(TAKEN_BY_OTHER) == ASK
    assert play.do(owned_by(99)) == []
    assert play.do(owned_by(98)) == [ev.CancelTimer(), completed("first")]


@pytest.mark.parametrize("pid", [10, 12])
def test_process_of_the_start_serves_at_once_whoever_was_first(pid: int) -> None:
    """The rule: a question costs an activation a twentieth of its time."""
    play = Play()
    assert play.do(FIRST) == SPAWN
    play.do(spawned())
    assert play.do(took(pid)) == [ev.CancelTimer(), completed("first")]


def test_process_of_the_start_serves_with_the_answer_that_is_under_way() -> None:
    play = starting()
    play.do(TAKEN_BY_FOREIGN, LOST)
    assert play.do(took()) == []
    assert play.do(owned_by()) == [ev.CancelTimer(), completed("first")]


def test_owner_who_went_during_the_start_serves_but_the_engine_is_let_go() -> None:
    """It was most likely the service itself, and quick; or anybody, before the request."""
    play = starting()
    play.do(SECOND_REQUEST)
    unsure = ev.CompleteActivation(("first",), sure=False)
    assert play.do(took_and_went(1002)) == [ev.CancelTimer(), unsure]
    # The second has asked, so that it need not be content with that.
    assert play.do(LOST) == SPAWN


def test_request_during_an_end_is_not_served_by_an_older_answer() -> None:
    play = starting()
    play.do(TAKEN_BY_FOREIGN, STOP, SECOND_REQUEST, ended(10, TERM))
    assert play.do(ALL_GONE) == [ev.CancelTimer(), ev.CompleteStop(), *ASK]
    assert play.do(owned_by(99)) == []
    assert play.do(owned_by(99)) == [completed("second")]


@pytest.mark.parametrize("state", [State.RUNNING, State.EXTERNAL])
def test_request_while_owned_is_one_after_the_loss_that_is_on_its_way(state: State) -> None:
    """The engine asks only for what nobody owns."""
    play = in_state(state)
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(LOST) == SPAWN


def test_leftover_that_had_the_name_before_the_start_serves_nobody() -> None:
    play = lingering()
    play.do(SECOND_REQUEST, spawned(11), took(10, current=False), LOST, NOBODY)
    assert (play.state, play.service.main.pid) == (State.START, 11)
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_death_is_asked_about_and_an_owner_from_before_it_still_serves() -> None:
    """The answer that confirms it need not be the newest one."""
    play = starting()
    play.do(TAKEN_BY_FOREIGN)
    assert play.do(ended(10, EXIT_3)) == ASK
    assert play.do(owned_by(99)) == [ev.CancelTimer(), completed("first")]
    assert play.do(LOST) == []
    assert play.do(NOBODY) == []
    assert play.state is State.LINGERING


def test_time_that_is_up_before_the_answer_leaves_the_name_to_its_owner() -> None:
    """A bus so slow is hardly alive; but what it said is true."""
    for taken, state in (
        (TAKEN_BY_FOREIGN, State.EXTERNAL),
        (took(9, current=False), State.RUNNING),
    ):
        play = Play(FIRST, spawned(), taken)
        effects = play.do(fires(Timer.ACTIVATION))
        assert isinstance(the_error(effects), TimedOut)
        assert effects[0] == ev.CancelTimer()
        assert len(effects) == 2
        assert play.end == (state, Result.SUCCESS, 1)


def test_timer_that_fires_though_it_was_cancelled_changes_nothing() -> None:
    play = starting()
    assert play.do(fires(Timer.STOP)) == []
    assert play.do(fires(Timer.KILL)) == []
    assert play.end == (State.START, Result.SUCCESS, 0)
    play.do(STOP)
    assert play.do(fires(Timer.ACTIVATION)) == []
    assert play.end == (State.STOP_SIGTERM, Result.SUCCESS, 0)


def test_owner_that_ended_before_the_start_is_not_taken_for_the_new_ones() -> None:
    """It took the name while it was being ended, and that is told only now."""
    play = Play(FIRST, spawned(), STOP, SECOND_REQUEST, ended(10, TERM), ALL_GONE, spawned(11))
    for event in (took(10), LOST, took(10), LOST):
        assert play.do(event) == []
        assert (play.state, play.service.main.pid) == (State.START, 11)
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_owner_that_is_only_told_at_rest_changes_nothing() -> None:
    play = starting()
    play.do(fires(Timer.ACTIVATION), ended(10, TERM), ALL_GONE)
    assert play.do(took()) == []
    assert (*play.end, play.service.main.pid) == (State.FAILED, Result.TIMEOUT, 1, 0)
    assert play.do(LOST) == []
    assert (*play.end, play.service.owner) == (State.FAILED, Result.TIMEOUT, 1, "")


def test_memory_of_ends_is_bounded() -> None:
    """A service may have a million children, and no one waits for so late an owner."""
    play = running()
    for pid in range(100, 100 + RECENT + 1):
        play.do(ended(pid, SEGV))
    play.do(took(100))
    assert play.service.main.pid == 100  # forgotten, so it is taken for alive
    play.do(took(101))
    assert play.service.main.pid == 0
    assert play.end == (State.RUNNING, Result.SIGNAL, 1)


def test_a_request_that_starts_a_service_waits_for_no_question_of_an_earlier_one() -> None:
    """A process that is started for it cannot have lost the name before it."""
    play = starting()
    assert play.do(ended(10, EXIT_3)) == ASK
    play.do(STOP, ALL_GONE)
    assert play.service.state is State.DEAD
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(20))
    # The answer to the first has not come yet.
    assert play.do(took(20)) == [ev.CancelTimer(), completed("second")]
