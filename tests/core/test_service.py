"""Each rule on top of ``broker/core/service.py``, and the sequences of real life.

PIDs stand for processes here: 10 is the one that is spawned first, and a process
was started at the moment that is its PID.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import pytest

from broker.core import events as ev
from broker.core.clock import NEVER, Instant
from broker.core.ends import RECENT
from broker.core.events import Effect, Event, OwnerKind, Timer
from broker.core.exits import CLEAN_SIGNALS, UNKNOWN_EXIT, Exit, Result
from broker.core.service import Service
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

NAME: Final = "org.example.Echo"
BURST: Final = 3
INTERVAL: Final = 60  # seconds
SECOND: Final = 1_000_000

EXIT_0: Final = Exit(1, 0)
EXIT_3: Final = Exit(1, 3)
HUP: Final = Exit(2, 1)
KILL: Final = Exit(2, 9)
SEGV: Final = Exit(2, 11)
TERM: Final = Exit(2, 15)
ABORT_DUMPED: Final = Exit(3, 6)

# -- events, as short as they can be told ------------------------------------------

FIRST: Final = ev.Requested("first")
SECOND_REQUEST: Final = ev.Requested("second")
LOST: Final = ev.NameLost()
ALL_GONE: Final = ev.Emptied(all_gone=True)
OLDER_LEFT: Final = ev.Emptied(all_gone=False)
STOP: Final = ev.StopRequested()
CLOSING: Final = ev.Closing()
RESET: Final = ev.ResetFailed()
NOBODY: Final = ev.OwnerConfirmed("")


def born(pid: int) -> Instant:
    return Instant(pid, pid)


def spawned(pid: int = 10) -> Event:
    return ev.Spawned(pid, born(pid))


def took(pid: int = 10, kind: OwnerKind = OwnerKind.OWN) -> ev.NameAcquired:
    return ev.NameAcquired(f":1.{pid}", pid, kind, born(pid))


def ended(pid: int, end: Exit, *, current: bool = True) -> Event:
    return ev.ProcessExited(pid, born(pid), end, current)


def owned_by(pid: int = 10) -> Event:
    return ev.OwnerConfirmed(f":1.{pid}")


def fires(timer: Timer) -> Event:
    return ev.TimerFired(timer)


def refused() -> Event:
    return ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED)


TAKEN_BY_FOREIGN: Final = took(99, OwnerKind.FOREIGN)
TAKEN_BY_OTHER: Final = took(98, OwnerKind.OTHER)

# -- effects -----------------------------------------------------------------------

ASK: Final = [ev.ConfirmOwner()]
SPAWN: Final = [ev.ArmTimer(Timer.ACTIVATION), ev.Spawn(), *ASK]
SIGTERM_ALL: Final = [ev.ArmTimer(Timer.STOP), ev.SignalAll(15)]
SIGKILL_ALL: Final = [ev.SignalAll(9), ev.CancelTimer(), ev.ArmTimer(Timer.KILL)]
STOPPED: Final = [ev.CancelTimer(), ev.CompleteStop()]


def completed(*tokens: str) -> ev.CompleteActivation:
    return ev.CompleteActivation(tokens)


class Play:
    """A service on a stage: takes events, a second apart, and remembers all effects.

    Attributes:
        prompt: the bus answers the question that a start asks as soon as the process
            is there, and nobody has the name; it is no event of its own then.
    """

    def __init__(self, *events: Event, prompt: bool = True) -> None:
        self.prompt = prompt
        self.service = Service(NAME, StartLimit(BURST, INTERVAL * SECOND), 25.0)
        self.seconds = 1000
        self.effects: list[Effect] = []
        self.do(*events)

    @property
    def now(self) -> Instant:
        return Instant(self.seconds * SECOND + 7, self.seconds * SECOND)

    def do(self, *events: Event) -> list[Effect]:
        """Give it events; returns what the last of them led to."""
        effects: list[Effect] = []
        for event in events:
            self.seconds += 1
            effects = self.service.handle(event, self.now)
            self.effects += effects
            if self.prompt and isinstance(event, ev.Spawned | ev.SpawnRefused):
                assert self.service.handle(NOBODY, self.now) == []
        return effects

    @property
    def state(self) -> State:
        return self.service.state

    @property
    def end(self) -> tuple[State, Result, int]:
        """What is left of a life: state, result, number of failures."""
        return self.service.state, self.service.result, self.service.failures

    @property
    def exec_main(self) -> tuple[int, Exit]:
        return self.service.exec_main_pid, self.service.exec_main_exit


def the_failure(effects: Sequence[Effect]) -> ev.FailActivation:
    (failure,) = [each for each in effects if isinstance(each, ev.FailActivation)]
    return failure


def the_error(effects: Sequence[Effect]) -> Outcome:
    return the_failure(effects).error


# The shortest way into each state.
WAYS: Final[dict[State, Sequence[Event]]] = {
    State.DEAD: [],
    State.START: [FIRST, spawned()],
    State.RUNNING: [FIRST, spawned(), took()],
    # Somebody's process has the name, and one of ours is there as well.
    State.EXTERNAL: [FIRST, spawned(), TAKEN_BY_FOREIGN],
    State.LINGERING: [FIRST, spawned(), took(), LOST],
    State.STOP_SIGTERM: [FIRST, spawned(), took(), STOP],
    State.STOP_SIGKILL: [FIRST, spawned(), took(), STOP, fires(Timer.STOP)],
    State.FAILED: [FIRST, spawned(), ended(10, EXIT_3), ALL_GONE, NOBODY, NOBODY],
}


def in_state(state: State) -> Play:
    return Play(*WAYS[state])


def starting() -> Play:
    return in_state(State.START)


def running() -> Play:
    return in_state(State.RUNNING)


def external() -> Play:
    return in_state(State.EXTERNAL)


def lingering() -> Play:
    return in_state(State.LINGERING)


def stopping() -> Play:
    return in_state(State.STOP_SIGTERM)


@pytest.mark.parametrize("state", State)
def test_stage_directions_lead_to_the_states_they_name(state: State) -> None:
    assert in_state(state).state is state


# -- a plain life --------------------------------------------------------------------


def test_new_service_is_dead_and_has_nothing_to_show() -> None:
    service = Play().service
    assert (service.state, service.result, service.owner) == (State.DEAD, Result.SUCCESS, "")
    assert (service.main_pid, service.exec_main_pid, service.exec_main_exit) == (0, 0, UNKNOWN_EXIT)
    assert (service.exec_main_start, service.exec_main_end) == (NEVER, NEVER)
    assert (service.state_change, service.activations, service.failures) == (NEVER, 0, 0)
    assert service.activation_usec == 0
    assert not service.stoppable


def test_request_arms_the_timer_before_it_spawns() -> None:
    play = Play()
    assert play.do(FIRST) == SPAWN
    assert play.state is State.START
    assert play.service.stoppable  # from now on, also while there is no process yet


def test_start_completes_when_the_name_is_owned() -> None:
    play = starting()
    assert (play.service.main_pid, play.service.exec_main_start) == (10, born(10))
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert (play.service.owner, play.service.main_pid) == (":1.10", 10)


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
    assert play.service.state_change == at
    play.do(LOST)
    assert play.service.state_change == play.now


def test_times_of_the_main_process_are_its_own() -> None:
    play = running()
    play.do(ended(10, EXIT_0))
    end = play.now
    play.do(ALL_GONE, LOST)
    assert (play.service.exec_main_start, play.service.exec_main_end) == (born(10), end)


def test_activations_are_counted_refused_ones_too() -> None:
    play = Play(FIRST, refused())
    play.do(FIRST, spawned(), took())
    assert play.service.activations == 2


def test_owning_process_becomes_the_main_one() -> None:
    play = starting()
    play.do(took(12))
    assert (play.service.main_pid, play.exec_main) == (12, (12, UNKNOWN_EXIT))
    assert play.service.exec_main_start == born(12)


def test_main_process_stays_when_the_owner_is_not_of_the_service() -> None:
    for taken in (TAKEN_BY_FOREIGN, TAKEN_BY_OTHER):
        play = starting()
        play.do(taken)
        assert play.service.main_pid == 10


def test_name_may_go_from_process_to_process_without_a_loss() -> None:
    play = running()
    assert play.do(took(11)) == []
    assert (play.state, play.service.owner, play.service.main_pid) == (State.RUNNING, ":1.11", 11)
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
    assert (play.state, play.service.main_pid) == (State.RUNNING, 0)
    play.do(LOST)
    assert (play.state, play.service.owner) == (State.DEAD, "")


def test_service_lingers_until_its_last_process_has_gone_though_the_name_is_lost() -> None:
    play = running()
    assert play.do(LOST) == []
    assert (play.state, play.service.owner, play.service.main_pid) == (State.LINGERING, "", 10)
    play.do(ended(10, EXIT_0))
    assert play.state is State.LINGERING  # until it is sure that there is no other one
    play.do(ALL_GONE)
    assert (play.state, play.service.main_pid) == (State.DEAD, 0)


def test_lingering_waits_for_processes_of_older_activations_too() -> None:
    play = lingering()
    play.do(ended(10, EXIT_0), OLDER_LEFT)
    assert play.end == (State.LINGERING, Result.SUCCESS, 0)
    play.do(ALL_GONE)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_lingering_process_may_take_the_name_again() -> None:
    play = lingering()
    assert play.do(took()) == []
    assert (play.state, play.service.owner, play.service.main_pid) == (State.RUNNING, ":1.10", 10)


def test_foreign_process_may_take_the_name_at_any_time_at_rest() -> None:
    for rest in (State.DEAD, State.FAILED):
        play = in_state(rest)
        assert play.do(TAKEN_BY_FOREIGN) == []
        assert (play.state, play.service.result) == (State.EXTERNAL, Result.SUCCESS)
        assert (play.service.owner, play.service.main_pid) == (":1.99", 0)
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
    assert (play.service.main_pid, play.exec_main) == (0, (12, UNKNOWN_EXIT))
    play.do(LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 0)


def test_grandchild_that_takes_the_name_again_was_not_started_again() -> None:
    """Its start is on no record but computed each time, never twice quite the same."""
    play = starting()
    play.do(took(12), LOST, ev.NameAcquired(":1.13", 12, OwnerKind.OWN, born(700)))
    assert (play.service.main_pid, play.service.exec_main_start) == (12, born(12))


def test_grandchild_that_is_known_as_owner_only_after_all_have_gone_is_no_main_process() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ALL_GONE, took(12))
    play.do(LOST)
    assert (play.state, play.service.main_pid) == (State.DEAD, 0)


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
    # The bus has no PID for a connection that is closed.
    "owner-crashes-before-its-pid-is-known": Story(
        [ev.NameAcquired(":1.10", 0, OwnerKind.OWN, born(77)), LOST],
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
        [TAKEN_BY_FOREIGN, LOST],
        [ended(10, EXIT_3), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, EXIT_3),
    ),
    "process-of-another-service-was-faster": Story(
        [TAKEN_BY_OTHER, LOST],
        [ended(10, EXIT_3), ALL_GONE],
        (State.DEAD, Result.SUCCESS, 0),
        (10, EXIT_3),
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
        assert play.service.main_pid == 0, turns
        assert (completed("first") in play.effects) == story.served, turns
        failures = [each for each in play.effects if isinstance(each, ev.FailActivation)]
        assert len(failures) == (not story.served), turns


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
    assert (play.service.main_pid, play.exec_main) == (0, (10, EXIT_3))


def test_process_that_exits_with_a_status_is_a_reason_before_the_others_have_gone() -> None:
    play = starting()
    play.do(ended(10, EXIT_3))
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildExited)
    assert effects[-2:] == SIGTERM_ALL  # rule 4
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
    assert (play.state, play.service.main_pid, play.exec_main) == (State.START, 0, (10, EXIT_0))
    assert play.do(took(12)) == [ev.CancelTimer(), completed("first")]
    assert (play.state, play.service.main_pid) == (State.RUNNING, 12)
    assert (play.exec_main, play.service.exec_main_start) == ((12, UNKNOWN_EXIT), born(12))


def test_exit_with_0_of_all_without_the_name_is_a_protocol_failure() -> None:
    play = starting()
    play.do(ended(10, EXIT_0))
    assert play.do(ALL_GONE) == ASK
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildExited)
    assert "status 0" in str(the_error(effects))
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)
    assert play.exec_main == (10, EXIT_0)


def test_daemon_that_crashes_before_the_name_decides_the_activation() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV))
    at = play.now
    play.do(ALL_GONE)
    effects = play.do(NOBODY)
    assert isinstance(the_error(effects), SpawnChildSignaled)
    assert str(the_error(effects)) == f"Process {NAME} received signal 11"
    assert play.end == (State.FAILED, Result.SIGNAL, 1)
    assert (play.service.main_pid, play.exec_main) == (0, (11, SEGV))
    assert (play.service.exec_main_start, play.service.exec_main_end) == (born(11), at)


def test_crash_is_not_hidden_by_a_helper_that_ends_well_after_it() -> None:
    """The dead are reaped in no order that means anything."""
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV), ended(12, EXIT_0), ALL_GONE)
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildSignaled)
    assert play.exec_main == (11, SEGV)


def test_of_several_bad_ends_the_newest_is_named() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(11, SEGV), ended(12, EXIT_3), ALL_GONE)
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
    assert effects[-2:] == SIGTERM_ALL
    assert (play.state, play.service.result) == (State.STOP_SIGTERM, Result.TIMEOUT)
    play.do(ended(10, TERM), ALL_GONE)
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


def test_program_that_cannot_be_started_is_a_reason() -> None:
    play = Play(FIRST)
    event = ev.SpawnRefused(SpawnExecFailed("no such file"), Result.EXEC_FAILED)
    effects = play.do(event)
    assert effects == [ev.CancelTimer(), ev.FailActivation(("first",), event.error)]
    assert play.end == (State.FAILED, Result.EXEC_FAILED, 1)
    assert (play.service.main_pid, play.service.stoppable) == (0, False)


def test_everyone_who_waits_hears_the_reason() -> None:
    play = starting()
    play.do(SECOND_REQUEST)
    assert the_failure(play.do(fires(Timer.ACTIVATION))).tokens == ("first", "second")


def test_failed_service_is_started_again_on_request() -> None:
    play = in_state(State.FAILED)
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(11), took(11))
    assert play.end == (State.RUNNING, Result.SUCCESS, 1)


# -- rule 3: the bus is asked --------------------------------------------------------


def test_death_before_the_name_is_no_failure_of_the_activation_if_the_name_was_taken() -> None:
    play = starting()
    assert play.do(ended(10, EXIT_0)) == []
    assert play.do(ALL_GONE) == ASK
    assert play.do(took()) == [ev.CancelTimer(), completed("first")]
    assert play.do(owned_by()) == []
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
    assert (play.service.main_pid, play.exec_main) == (0, (10, SEGV))
    assert play.service.exec_main_end == at


def test_owner_is_known_by_its_start_too_since_pids_come_again() -> None:
    play = starting()
    play.do(ended(11, SEGV))
    again = ev.NameAcquired(":1.11", 11, OwnerKind.OWN, born(500))
    play.do(again)
    assert (play.service.main_pid, play.service.exec_main_start) == (11, born(500))
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)


def test_first_process_with_a_bad_status_counts_for_nothing_if_its_daemon_took_the_name() -> None:
    play = starting()
    play.do(ended(10, EXIT_3), took(12), owned_by(12))
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert play.service.main_pid == 12


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
    assert play.do(spawned(11)) == []
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


# Whoever it is: of a connection that is closed the bus has no PID, so that it is
# taken for the service's own.
OLD_NEWS: Final = {
    "foreign": TAKEN_BY_FOREIGN,
    "another service's": TAKEN_BY_OTHER,
    "nobody knows": ev.NameAcquired(":1.99", 0, OwnerKind.OWN, born(77)),
}


@pytest.mark.parametrize("taken", OLD_NEWS.values(), ids=OLD_NEWS)
def test_owner_from_before_the_start_serves_nobody(taken: Event) -> None:
    """Else the engine, which asked after it had gone, would wait for nobody."""
    play = Play(FIRST, spawned(), prompt=False)
    assert play.do(taken) == []
    assert play.do(LOST) == []
    assert play.do(NOBODY) == []
    assert (play.state, play.service.owner, play.service.main_pid) == (State.START, "", 10)
    play.do(ended(10, EXIT_3))
    assert the_failure(play.do(NOBODY)).tokens == ("first",)


@pytest.mark.parametrize("taken", [*OLD_NEWS.values(), took(), took(12)])
def test_owner_that_is_heard_of_before_the_answer_serves_when_the_answer_confirms_it(
    taken: ev.NameAcquired,
) -> None:
    play = Play(FIRST, spawned(), prompt=False)
    assert play.do(taken) == []
    assert play.do(ev.OwnerConfirmed(taken.owner)) == [ev.CancelTimer(), completed("first")]
    external = taken.kind is OwnerKind.FOREIGN
    assert play.state is (State.EXTERNAL if external else State.RUNNING)
    assert play.service.main_pid == (taken.pid if taken.pid == 12 else 10)


def test_leftover_that_had_the_name_before_the_start_serves_nobody() -> None:
    play = lingering()
    play.prompt = False
    play.do(SECOND_REQUEST, spawned(11), took(10), LOST, NOBODY)
    assert (play.state, play.service.main_pid) == (State.START, 11)
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_death_is_asked_about_and_an_owner_from_before_it_still_serves() -> None:
    """The answer that confirms it need not be the newest one."""
    play = Play(FIRST, spawned(), prompt=False)
    play.do(TAKEN_BY_FOREIGN)
    assert play.do(ended(10, EXIT_3)) == ASK
    assert play.do(owned_by(99)) == [ev.CancelTimer(), completed("first")]
    assert play.do(LOST) == []
    assert play.do(NOBODY) == []
    assert play.state is State.LINGERING


def test_time_that_is_up_before_the_answer_leaves_the_name_to_its_owner() -> None:
    """A bus so slow is hardly alive; but what it said is true."""
    for taken, state in ((TAKEN_BY_FOREIGN, State.EXTERNAL), (took(), State.RUNNING)):
        play = Play(FIRST, spawned(), taken, prompt=False)
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
        assert (play.state, play.service.main_pid) == (State.START, 11)
    assert play.do(took(11)) == [ev.CancelTimer(), completed("second")]


def test_owner_that_is_only_told_at_rest_changes_nothing() -> None:
    play = starting()
    play.do(fires(Timer.ACTIVATION), ended(10, TERM), ALL_GONE)
    assert play.do(took()) == []
    assert (*play.end, play.service.main_pid) == (State.FAILED, Result.TIMEOUT, 1, 0)
    assert play.do(LOST) == []
    assert (*play.end, play.service.owner) == (State.FAILED, Result.TIMEOUT, 1, "")


def test_memory_of_ends_is_bounded() -> None:
    """A service may have a million children, and no one waits for so late an owner."""
    play = running()
    for pid in range(100, 100 + RECENT + 1):
        play.do(ended(pid, SEGV))
    play.do(took(100))
    assert play.service.main_pid == 100  # forgotten, so it is taken for alive
    play.do(took(101))
    assert play.service.main_pid == 0
    assert play.end == (State.RUNNING, Result.SIGNAL, 1)


# -- rule 4: what is left is ended ------------------------------------------------------


def test_failed_activation_is_ended_with_sigterm_then_sigkill_until_nothing_is_left() -> None:
    play = starting()
    effects = play.do(fires(Timer.ACTIVATION))
    assert effects[-2:] == SIGTERM_ALL
    for timer in (Timer.STOP, Timer.KILL, Timer.KILL, Timer.KILL):
        assert play.do(fires(timer)) == SIGKILL_ALL
        assert play.state is State.STOP_SIGKILL
    assert play.do(ended(10, KILL), ALL_GONE) == STOPPED
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


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
    assert play.service.main_pid == 0


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


@pytest.mark.parametrize("taken", [took(), TAKEN_BY_FOREIGN, TAKEN_BY_OTHER])
def test_stop_is_complete_at_once_when_only_the_name_is_left(taken: Event) -> None:
    play = starting()
    play.do(taken, ended(10, EXIT_0), ALL_GONE)
    before = play.state
    assert play.do(STOP) == [ev.CompleteStop()]
    assert play.state is before  # the name decides (rule 1)


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


def test_request_while_lingering_starts_anew_beside_the_old_process() -> None:
    play = lingering()
    assert play.do(SECOND_REQUEST) == SPAWN
    play.do(spawned(11))
    assert play.service.main_pid == 11


def beside_leftover() -> Play:
    """Process 10 is of an older activation, 11 of the one that is starting."""
    return Play(FIRST, spawned(), took(), LOST, SECOND_REQUEST, spawned(11))


def test_bad_end_of_a_leftover_does_not_count_for_the_new_activation() -> None:
    play = beside_leftover()
    assert play.do(ended(10, SEGV, current=False)) == []
    assert play.do(ended(11, EXIT_0), ALL_GONE) == ASK
    assert isinstance(the_error(play.do(NOBODY)), SpawnChildExited)
    assert play.end == (State.FAILED, Result.PROTOCOL, 1)


def test_bad_end_of_an_activation_before_does_not_count_for_the_next_one() -> None:
    play = starting()
    play.do(ended(10, EXIT_0), ended(12, SEGV), ALL_GONE, NOBODY)
    play.do(SECOND_REQUEST, spawned(11), ended(11, EXIT_0), ALL_GONE)
    assert "status 0" in str(the_error(play.do(NOBODY)))


def test_leftover_does_not_keep_the_new_activation_from_failing() -> None:
    play = beside_leftover()
    play.do(ended(11, EXIT_0))
    assert play.do(OLDER_LEFT) == ASK
    effects = play.do(NOBODY)
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
    assert play.service.main_pid == 10
    # It may even take the name again.
    play.do(took())
    assert (play.state, play.service.main_pid) == (State.RUNNING, 10)
    play.do(ended(10, EXIT_0), ALL_GONE, LOST)
    assert play.end == (State.DEAD, Result.SUCCESS, 1)


def test_leftover_that_takes_the_name_again_serves_who_waits() -> None:
    play = beside_leftover()
    assert play.do(took(10)) == [ev.CancelTimer(), completed("second")]
    assert play.service.main_pid == 10
    # The new process finds the name taken: that is its right.
    play.do(ended(11, EXIT_3), OLDER_LEFT)
    assert play.end == (State.RUNNING, Result.SUCCESS, 0)
    assert play.service.main_pid == 10


def test_failed_activation_is_ended_together_with_leftovers() -> None:
    play = beside_leftover()
    assert play.do(fires(Timer.ACTIVATION))[-2:] == SIGTERM_ALL
    assert play.do(ended(11, TERM), OLDER_LEFT) == []
    assert play.do(ended(10, KILL, current=False), ALL_GONE) == STOPPED
    assert play.end == (State.FAILED, Result.TIMEOUT, 1)


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
    taken: Event,
) -> None:
    for order in ([ended(10, EXIT_3), LOST], [LOST, ended(10, EXIT_3)]):
        play = starting()
        play.do(taken, *order, ALL_GONE)
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


def test_crashes_of_a_running_service_close_the_gate_too() -> None:
    play = Play()
    for pid in range(20, 20 + BURST):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), took(pid), ended(pid, SEGV), ALL_GONE, LOST)
    assert isinstance(the_error(play.do(FIRST)), StartLimitHit)


def test_crashes_that_are_seen_before_the_name_close_the_gate_too() -> None:
    play = Play()
    for pid in range(20, 20 + BURST):
        assert play.do(ev.Requested(pid)) == SPAWN
        play.do(spawned(pid), ended(pid, SEGV), ALL_GONE, took(pid), LOST, NOBODY, NOBODY)
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
