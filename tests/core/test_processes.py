"""The records of processes: found while they live, kept for a while, never mixed up."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.attribution import Attribution, Origin
from broker.core.clock import NEVER, Instant
from broker.core.exits import UNKNOWN_EXIT, Exit
from broker.core.processes import HISTORY, NO_USAGE, Process, Processes, Usage

ECHO = "org.example.Echo"
CLOCK = "org.example.Clock"


def add(processes: Processes, pid: int, service: str = ECHO, activation: int = 1) -> Process:
    return processes.add(
        pid,
        ppid=1,
        service=service,
        activation=activation,
        origin=Origin.SPAWNED,
        attribution=Attribution.SPAWNED,
        started=Instant(pid, pid),
        command=("/usr/bin/echo", str(pid)),
    )


def end(processes: Processes, pid: int, usage: Usage = NO_USAGE) -> tuple[Process, Process | None]:
    return processes.end(pid, Exit(1, 0), usage, Instant(900, 900))


def test_record_says_what_was_seen_at_the_start() -> None:
    process = Processes().add(
        42,
        ppid=7,
        service=ECHO,
        activation=3,
        origin=Origin.ADOPTED,
        attribution=Attribution.TAG,
        started=Instant(1, 2),
        command=("/usr/bin/echo", "-n"),
    )
    assert (process.pid, process.ppid, process.service, process.activation) == (42, 7, ECHO, 3)
    assert (process.origin, process.attribution) == (Origin.ADOPTED, Attribution.TAG)
    assert (process.started, process.command) == (Instant(1, 2), ("/usr/bin/echo", "-n"))
    assert process.running
    assert (process.exit, process.exited, process.usage) == (UNKNOWN_EXIT, NEVER, NO_USAGE)


def test_record_says_how_it_ended() -> None:
    processes = Processes()
    process = add(processes, 42)
    found, forgotten = processes.end(42, Exit(2, 11), Usage(1, 2, 3), Instant(8, 9))
    assert found is process
    assert forgotten is None
    assert not process.running
    assert (process.exit, process.usage) == (Exit(2, 11), Usage(1, 2, 3))
    assert process.exited == Instant(8, 9)


def test_live_process_is_found_in_every_way() -> None:
    processes = Processes()
    process = add(processes, 42)
    assert processes.get(42) is process
    assert processes.newest(42) is process
    assert 42 in processes
    assert len(processes) == 1
    assert list(processes.live()) == [process]
    assert list(processes.of_activation(1)) == [process]
    assert processes.of_service(ECHO) == [process]
    assert list(processes.ended()) == []


def test_ended_process_is_found_among_the_ended_and_as_the_newest_only() -> None:
    processes = Processes()
    process = add(processes, 42)
    end(processes, 42)
    assert processes.get(42) is None
    assert processes.newest(42) is process
    assert 42 not in processes
    assert len(processes) == 0
    assert list(processes.live()) == []
    assert list(processes.of_activation(1)) == []
    assert processes.of_service(ECHO) == []
    assert list(processes.ended()) == [process]


def test_unknown_pid_is_nobodys() -> None:
    processes = Processes()
    assert processes.get(42) is None
    assert processes.newest(42) is None
    assert list(processes.of_activation(9)) == []
    with pytest.raises(KeyError):
        end(processes, 42)


def test_two_live_processes_cannot_have_one_pid() -> None:
    processes = Processes()
    add(processes, 42)
    with pytest.raises(AssertionError):
        add(processes, 42)


def test_processes_of_activations_and_services_are_told_apart() -> None:
    processes = Processes()
    old, new = add(processes, 10, activation=1), add(processes, 11, activation=2)
    other, stray = add(processes, 12, CLOCK, activation=3), add(processes, 13, "", activation=0)
    assert list(processes.of_activation(1)) == [old]
    assert list(processes.of_activation(2)) == [new]
    assert processes.of_service(ECHO) == [old, new]
    assert processes.of_service(CLOCK) == [other]
    assert processes.of_service("") == [stray]


def test_serial_is_never_used_again_though_the_pid_is() -> None:
    processes = Processes()
    serials = []
    for _ in range(3 * HISTORY):
        serials.append(add(processes, 42).serial)
        end(processes, 42)
    assert serials == list(range(1, 3 * HISTORY + 1))


def test_newest_of_several_with_one_pid_is_the_one_that_came_last() -> None:
    processes = Processes()
    for service in (ECHO, CLOCK):
        add(processes, 42, service)
        end(processes, 42)
    newest = processes.newest(42)
    assert newest is not None
    assert (newest.service, newest.running) == (CLOCK, False)
    live = add(processes, 42, ECHO)
    assert processes.newest(42) is live


def test_newest_is_by_start_also_when_an_earlier_service_ends_last() -> None:
    processes = Processes()
    add(processes, 42, ECHO)
    end(processes, 42)
    add(processes, 42, CLOCK)
    end(processes, 42)
    add(processes, 43, ECHO)
    end(processes, 43)
    newest = processes.newest(42)
    assert newest is not None
    assert newest.service == CLOCK


def test_16_ended_ones_are_kept_and_the_oldest_makes_room() -> None:
    processes = Processes()
    assert HISTORY == 16
    for pid in range(100, 116):
        add(processes, pid)
        assert end(processes, pid)[1] is None
    for pid in range(116, 120):
        add(processes, pid)
        forgotten = end(processes, pid)[1]
        assert forgotten is not None
        assert forgotten.pid == pid - 16
        assert processes.newest(pid - 16) is None
    assert [each.pid for each in processes.ended()] == list(range(104, 120))


def test_each_service_has_its_own_16() -> None:
    processes = Processes()
    add(processes, 7, CLOCK)
    end(processes, 7)
    for pid in range(100, 140):
        add(processes, pid, ECHO)
        end(processes, pid)
    assert len(list(processes.ended())) == 17
    assert processes.newest(7) is not None


def test_the_oldest_record_is_of_the_first_end_not_the_first_start() -> None:
    processes = Processes()
    add(processes, 7)
    for pid in range(100, 116):
        add(processes, pid)
        end(processes, pid)
    assert end(processes, 7)[1] is not None
    assert processes.newest(7) is not None
    assert processes.newest(100) is None


def test_usage_of_a_service_is_the_sum_of_times_and_the_highest_peak() -> None:
    processes = Processes()
    assert processes.usage(ECHO) == NO_USAGE
    for pid, usage in enumerate([Usage(1, 10, 500), Usage(2, 20, 900), Usage(4, 40, 700)], 10):
        add(processes, pid)
        end(processes, pid, usage)
    assert processes.usage(ECHO) == Usage(7, 70, 900)
    assert processes.usage(CLOCK) == NO_USAGE


def test_usage_counts_those_that_are_forgotten() -> None:
    processes = Processes()
    for pid in range(100, 150):
        add(processes, pid)
        end(processes, pid, Usage(1, 1, 1))
    assert processes.usage(ECHO) == Usage(50, 50, 1)


def test_every_end_is_counted_of_services_and_of_strays() -> None:
    processes = Processes()
    for pid, service in enumerate([ECHO, CLOCK, ""], 10):
        add(processes, pid, service)
        end(processes, pid)
    assert processes.reaped == 3


class Records(RuleBasedStateMachine):
    """Processes come and go, with few PIDs so that those come again all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = Processes()
        self.everyone: list[Process] = []
        self.live: dict[int, Process] = {}
        self.kept: dict[str, deque[Process]] = {}

    @rule(
        pid=st.integers(2, 6),
        service=st.sampled_from([ECHO, CLOCK, ""]),
        activation=st.integers(0, 2),
    )
    def start(self, pid: int, service: str, activation: int) -> None:
        """A process appears, or ends if its PID is taken."""
        if pid in self.live:
            self.stop(0, pid)
        process = add(self.processes, pid, service, activation)
        self.live[pid] = process
        self.everyone.append(process)

    @precondition(lambda self: self.live)
    @rule(user=st.integers(0, 9), pid=st.integers(2, 6))
    def stop(self, user: int, pid: int) -> None:
        """A process is reaped."""
        if pid not in self.live:
            return
        expected = self.live.pop(pid)
        kept = self.kept.setdefault(expected.service, deque())
        kept.append(expected)
        process, forgotten = end(self.processes, pid, Usage(user, user, user))
        assert process is expected
        assert forgotten is (kept.popleft() if len(kept) > 16 else None)

    @invariant()
    def every_index_tells_the_same(self) -> None:
        """Of the living and of the kept."""
        live = list(self.live.values())
        assert {id(each) for each in self.processes.live()} == {id(each) for each in live}
        for pid in range(2, 7):
            assert self.processes.get(pid) is self.live.get(pid)
            assert (pid in self.processes) == (pid in self.live)
            known = [*live, *(each for kept in self.kept.values() for each in kept)]
            newest = max(
                (each for each in known if each.pid == pid),
                key=lambda each: each.serial,
                default=None,
            )
            assert self.processes.newest(pid) is newest
        for activation in range(3):
            expected = {each.pid for each in live if each.activation == activation}
            assert {each.pid for each in self.processes.of_activation(activation)} == expected
        for service in (ECHO, CLOCK, ""):
            expected = {each.pid for each in live if each.service == service}
            assert {each.pid for each in self.processes.of_service(service)} == expected
            ends = [each for each in self.everyone if each.service == service and not each.running]
            total = sum(each.usage.user for each in ends)
            peak = max((each.usage.max_rss for each in ends), default=0)
            assert self.processes.usage(service) == Usage(total, total, peak)

    @invariant()
    def serials_and_counts_go_up_only(self) -> None:
        """No serial twice; each end counted."""
        assert [each.serial for each in self.everyone] == list(range(1, len(self.everyone) + 1))
        assert self.processes.reaped == len(self.everyone) - len(self.live)
        assert len(self.processes) == len(self.live)


TestRecords = Records.TestCase
TestRecords.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
