"""A plain life, and rule 1: bus and kernel, in whichever order they tell of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import pytest

from broker.core import events as ev
from broker.core.clock import NEVER
from broker.core.events import Event, OwnerKind, Timer
from broker.core.exits import UNKNOWN_EXIT, Exit, Result
from broker.core.state import State
from tests.core.stage import (
    ABORT_DUMPED,
    ALL_GONE,
    ASK,
    EXIT_0,
    EXIT_3,
    FIRST,
    KILL,
    LOST,
    OLDER_LEFT,
    SECOND,
    SECOND_REQUEST,
    SEGV,
    SIGTERM_ALL,
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
    external,
    fires,
    in_state,
    lingering,
    owned_by,
    refused,
    running,
    served,
    spawned,
    starting,
    stopping,
    took,
    took_and_went,
)


@pytest.mark.parametrize("state", State)
def test_stage_directions_lead_to_the_states_they_name(state: State) -> None:
    assert in_state(state).state is state


# -- a plain life --------------------------------------------------------------------


def test_new_service_is_dead_and_has_nothing_to_show() -> None:
    service = Play().service
    assert (service.state, service.result, service.owner) == (State.DEAD, Result.SUCCESS, "")
    assert (service.main.pid, service.main.last_pid, service.main.exit) == (0, 0, UNKNOWN_EXIT)
    assert (service.main.started, service.main.ended) == (NEVER, NEVER)
    assert (service.changes.state, service.activations, service.failures) == (NEVER, 0, 0)
    assert service.activation_usec == 0
    assert not service.stoppable


def test_request_arms_the_timer_before_it_spawns() -> None:
    play = Play()
    assert play.do(FIRST) == SPAWN
    assert play.state is State.START
    assert play.service.stoppable  # from now on, also while there is no process yet


def test_start_completes_when_the_name_is_owned() -> None:
    play = starting()
    assert (play.service.main.pid, play.service.main.started) == (10, born(10))
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert (play.service.owner, play.service.main.pid) == (":1.10", 10)


def test_activation_time_is_from_request_to_name() -> None:
    play = starting()
    play.seconds += 5
    play.do(took())
    assert play.service.activation_usec == 7 * SECOND
    # A failed one does not change what was measured.
    play.do(LOST, ended(10, EXIT_0), ALL_GONE, FIRST, spawned(11), fires(Timer.ACTIVATION))
    assert play.service.activation_usec == 7 * SECOND


def test_state_change_is_the_moment_of_the_newest_change_of_state() -> None:
    play = starting()
    play.do(took())
    at = play.now
    play.do(ended(11, EXIT_0), SECOND_REQUEST)
    assert play.service.changes.state == at
    play.do(LOST)
    assert play.service.changes.state == play.now


def test_times_of_the_main_process_are_its_own() -> None:
    play = running()
    play.do(ended(10, EXIT_0))
    end = play.now
    play.do(ALL_GONE, LOST)
    assert (play.service.main.started, play.service.main.ended) == (born(10), end)


def test_activations_are_counted_refused_ones_too() -> None:
    play = Play(FIRST, refused())
    play.do(FIRST, spawned(), took())
    assert play.service.activations == 2


def test_owning_process_becomes_the_main_one() -> None:
    play = starting()
    play.do(took(12))
    assert (play.service.main.pid, play.exec_main) == (12, (12, UNKNOWN_EXIT))
    assert play.service.main.started == born(12)


def test_main_process_stays_when_the_owner_is_not_of_the_service() -> None:
    for taken in (TAKEN_BY_FOREIGN, TAKEN_BY_OTHER):
        play = starting()
        play.do(*served(taken))
        assert play.service.main.pid == 10


def test_name_may_go_from_process_to_process_without_a_loss() -> None:
    play = running()
    assert play.do(took(11)) == []
    assert (play.state, play.service.owner, play.service.main.pid) == (State.RUNNING, ":1.11", 11)
    # The predecessor is an ordinary process now; its end is nobody's failure.
    play.do(ended(10, SEGV))
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)


def test_new_owner_makes_up_for_the_predecessors_end() -> None:
    play = running()
    play.do(ended(10, SEGV), took(11))
    assert play.end == (State.RUNNING, Result.SUCCESS, 1)


# -- rule 1: bus and kernel, in whichever order ----------------------------------------


def test_service_runs_until_the_name_is_lost_though_its_last_process_has_gone() -> None:
    play = running()
    assert play.do(ended(10, EXIT_0), ALL_GONE) == []
    assert (play.state, play.service.main.pid) == (State.RUNNING, 0)
    play.do(LOST)
    assert (play.state, play.service.owner) == (State.DEAD, "")


def test_service_lingers_until_its_last_process_has_gone_though_the_name_is_lost() -> None:
    play = running()
    assert play.do(LOST) == []
    assert (play.state, play.service.owner, play.service.main.pid) == (State.LINGERING, "", 10)
    play.do(ended(10, EXIT_0))
    assert play.state is State.LINGERING  # until it is sure that there is no other one
    play.do(ALL_GONE)
    assert (play.state, play.service.main.pid) == (State.DEAD, 0)


def test_lingering_waits_for_processes_of_older_activations_too() -> None:
    play = lingering()
    play.do(ended(10, EXIT_0), OLDER_LEFT)
    assert play.end == (State.LINGERING, Result.SUCCESS, 0)
    play.do(ALL_GONE)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_lingering_process_may_take_the_name_again() -> None:
    play = lingering()
    assert play.do(took()) == []
    assert (play.state, play.service.owner, play.service.main.pid) == (State.RUNNING, ":1.10", 10)


def test_foreign_process_may_take_the_name_at_any_time_at_rest() -> None:
    for rest in (State.DEAD, State.FAILED):
        play = in_state(rest)
        assert play.do(TAKEN_BY_FOREIGN) == []
        assert (play.state, play.service.result) == (State.EXTERNAL, Result.SUCCESS)
        assert (play.service.owner, play.service.main.pid) == (":1.99", 0)
        play.do(LOST)
        assert (play.state, play.service.owner) == (State.DEAD, "")


def test_name_that_a_foreign_process_has_stays_its_own_when_ours_are_stopped() -> None:
    play = external()
    assert play.do(STOP) == SIGTERM_ALL
    assert play.do(ended(10, TERM), ALL_GONE) == STOPPED
    assert play.end == (State.EXTERNAL, Result.SUCCESS, 0)
    # So the next request is not answered with a spawn that could never get the name.
    assert play.do(SECOND_REQUEST) == ASK
    assert play.do(owned_by(99)) == [completed("second")]


def test_foreign_process_that_takes_the_name_during_a_stop_serves_who_waits() -> None:
    play = stopping()
    play.do(SECOND_REQUEST, LOST, TAKEN_BY_FOREIGN)
    assert play.do(ended(10, TERM), ALL_GONE) == [*STOPPED, *ASK]
    assert play.state is State.EXTERNAL
    assert play.do(owned_by(99)) == [completed("second")]


def test_grandchild_that_its_own_parent_reaped_is_forgotten_with_the_others() -> None:
    """Its end is never told, so it would be shown as the main process for ever."""
    play = starting()
    play.do(took(12), ended(10, EXIT_0), ALL_GONE)
    assert (play.service.main.pid, play.exec_main) == (0, (12, UNKNOWN_EXIT))
    play.do(LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_grandchild_that_takes_the_name_again_was_not_started_again() -> None:
    """Its start is on no record but computed each time, never twice quite the same."""
    play = starting()
    play.do(took(12), LOST, ev.NameAcquired(":1.13", 12, OwnerKind.OWN, born(700), current=True))
    assert (play.service.main.pid, play.service.main.started) == (12, born(12))


def test_grandchild_that_is_known_as_owner_only_after_all_have_gone_is_no_main_process() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ALL_GONE, took(12))
    play.do(LOST)
    assert (play.state, play.service.main.pid) == (State.DEAD, 0)


def test_owner_is_forgotten_when_its_loss_is_told_only_after_the_next_start() -> None:
    play = stopping()
    play.do(SECOND_REQUEST, ended(10, TERM))
    assert play.do(ALL_GONE) == [*STOPPED, *SPAWN]
    play.do(spawned(11), LOST)
    assert (play.state, play.service.owner) == (State.START, "")


# Bus and kernel each tell a part of what has happened, in a fixed order; how the
# two parts mix is chance.


@dataclass(frozen=True)
class Story:
    """What has happened, and how the service must end up however it hears of it."""

    bus: Sequence[Event]
    kernel: Sequence[Event]
    end: tuple[State, Result, int]
    exec_main: tuple[int, Exit]
    before: Sequence[Event] = (FIRST, spawned())
    served: bool = True


STORIES: Final = {
    "owner-crashes": Story(
        [took(), LOST],
        [ended(10, SEGV), ALL_GONE],
        (State.FAILED, Result.SIGNAL, 1),
        (10, SEGV),
    ),
    "owner-aborts-with-a-core": Story(
        [took(), LOST],
        [ended(10, ABORT_DUMPED), ALL_GONE],
        (State.FAILED, Result.CORE_DUMP, 1),
        (10, ABORT_DUMPED),
    ),
    "owner-is-idle": Story(
        [took(), LOST],
        [ended(10, EXIT_0), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, EXIT_0),
    ),
    "owner-has-an-error": Story(
        [took(), LOST],
        [ended(10, EXIT_3), ALL_GONE],
        (State.FAILED, Result.EXIT_CODE, 1),
        (10, EXIT_3),
    ),
    "owner-is-told-to-end": Story(
        [took(), LOST],
        [ended(10, TERM), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, TERM),
    ),
    "daemon-crashes": Story(
        [took(11), LOST],
        [ended(10, EXIT_0), ended(11, SEGV), ALL_GONE],
        (State.FAILED, Result.SIGNAL, 1),
        (11, SEGV),
    ),
    "daemon-crashes-among-others-that-end": Story(
        [took(11), LOST],
        [ended(10, EXIT_0), ended(11, SEGV), ended(12, EXIT_0), ended(13, EXIT_0), ALL_GONE],
        (State.FAILED, Result.SIGNAL, 1),
        (11, SEGV),
    ),
    "owner-crashes-before-its-pid-is-known": Story(
        [took_and_went(1002), LOST],
        [ended(10, SEGV), ALL_GONE],
        (State.FAILED, Result.SIGNAL, 1),
        (10, SEGV),
    ),
    "owner-lets-go-and-takes-again-and-crashes": Story(
        [took(), LOST, took(), LOST],
        [ended(10, SEGV), ALL_GONE],
        (State.FAILED, Result.SIGNAL, 1),
        (10, SEGV),
    ),
    "foreign-process-was-faster": Story(
        [LOST],
        [ended(10, EXIT_3), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, EXIT_3),
        before=[FIRST, spawned(), *served(TAKEN_BY_FOREIGN)],
    ),
    "process-of-another-service-was-faster": Story(
        [LOST],
        [ended(10, EXIT_3), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, EXIT_3),
        before=[FIRST, spawned(), *served(TAKEN_BY_OTHER)],
    ),
    "name-is-taken-too-late": Story(
        [took(), LOST],
        [ended(10, TERM), ALL_GONE],
        (State.FAILED, Result.TIMEOUT, 1),
        (10, TERM),
        before=[FIRST, spawned(), fires(Timer.ACTIVATION)],
        served=False,
    ),
    "name-is-taken-after-the-stop": Story(
        [took(), LOST],
        [ended(10, KILL), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, KILL),
        before=[FIRST, spawned(), STOP],
        served=False,
    ),
    "stopped": Story(
        [LOST],
        [ended(10, KILL), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, KILL),
        before=[FIRST, spawned(), took(), STOP],
    ),
    "foreign-process-follows-after-a-stop": Story(
        [LOST, TAKEN_BY_FOREIGN],
        [ended(10, TERM), ALL_GONE],
        (State.EXTERNAL, Result.SUCCESS, 0),
        (10, TERM),
        before=[FIRST, spawned(), took(), STOP],
    ),
}

Policy: TypeAlias = Callable[[Sequence[Event]], int]


def late(stream: Sequence[Event]) -> int:
    """The bus comes to a question after all that it has to say."""
    return len(stream)


def early(stream: Sequence[Event]) -> int:
    """It comes to it as soon as it can.

    That is after whatever was taken, since a death is asked about after it, and
    after older answers.
    """
    said = [i for i, each in enumerate(stream) if not isinstance(each, ev.NameLost)]
    return max(said, default=-1) + 1


def tell(story: Story, *, turns: Sequence[bool], policy: Policy) -> Play:
    """Let the service hear of a story; a turn is True when the kernel speaks next."""
    play = Play(*story.before)
    bus, kernel = list(story.bus), list(story.kernel)
    queue = list(turns)
    while bus or kernel:
        from_kernel = queue.pop(0) if queue else bool(kernel)
        event = (kernel if from_kernel and kernel else bus or kernel).pop(0)
        for effect in play.do(event):
            if effect == ev.ConfirmOwner():
                place = policy(bus)
                owner = play.service.owner
                for said in bus[:place]:
                    if isinstance(said, ev.NameAcquired):
                        owner = said.owner
                    elif isinstance(said, ev.NameLost):
                        owner = ""
                bus.insert(place, ev.OwnerConfirmed(owner))
    return play


@pytest.mark.parametrize("policy", [early, late])
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_end_is_the_same_however_bus_and_kernel_mix(story: Story, policy: Policy) -> None:
    for turns in itertools.product([True, False], repeat=len(story.bus) + len(story.kernel) + 2):
        play = tell(story, turns=turns, policy=policy)
        assert play.end == story.end, turns
        assert play.exec_main == story.exec_main, turns
        assert play.service.main.pid == 0, turns
        told = [each for each in play.effects if isinstance(each, ev.CompleteActivation)]
        assert [each.tokens for each in told] == [("first",)] * story.served, turns
        failures = [each for each in play.effects if isinstance(each, ev.FailActivation)]
        assert len(failures) == (not story.served), turns
