"""Every child is reaped once, with its own end, however many end at the same moment."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from broker.core.exits import CLD_DUMPED, CLD_EXITED, CLD_KILLED
from broker.process.reaper import BATCH
from tests.process.harness import Setting, events_of, run
from tests.process.scenarios import reaping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.process.harness import Event

# These stop a process, which is no end.
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
# glibc's posix_spawn has them ignored in every child.
INTERNAL = {32, 33}


def exits_of(events: Sequence[Event]) -> list[Event]:
    return [each for each in events if each.kind == "exited"]


def test_all_exit_codes(child: str) -> None:
    events = events_of(run(reaping.exit_codes, child))
    found = {each.service: (each.code, each.status) for each in exits_of(events)}
    assert found == {str(code): (CLD_EXITED, code) for code in range(256)}
    assert len(exits_of(events)) == 256


def test_all_signals(child: str) -> None:
    numbers = sorted(set(range(1, 65)) - STOPPING - INTERNAL)
    events = events_of(run(reaping.signals, child, numbers))
    found = {int(each.service): (each.code, each.status) for each in exits_of(events)}
    assert found == {
        number: (CLD_EXITED, 111) if number in HARMLESS else (CLD_KILLED, number)
        for number in numbers
    }


def test_a_core_dump_is_told_from_a_mere_signal(child: str, tmp_path: Path) -> None:
    (death,) = exits_of(events_of(run(reaping.core_dump, child, str(tmp_path))))
    dumped = any(tmp_path.iterdir())
    assert (death.code, death.status) == (CLD_DUMPED if dumped else CLD_KILLED, signal.SIGABRT)


def test_usage_of_time_and_memory(child: str) -> None:
    value = run(reaping.usage, child)
    exits = exits_of(events_of(value["events"]))
    by_service = {each.service: each for each in exits}
    for name in ("time", "waited"):
        assert 10_000 < by_service[name].user + by_service[name].system < 10_000_000, name
    # The kernel counts pages in batches.
    assert by_service["memory"].max_rss > 90 << 20
    assert value["totals"]["memory"] == by_service["memory"].max_rss
    for each in exits:
        if each.service == "little" and each.origin == "adopted":
            assert each.max_rss < 10 << 20


def test_a_small_service_does_not_show_the_brokers_memory(child: str) -> None:
    value = run(reaping.usage, child)
    (first,) = [
        each
        for each in exits_of(events_of(value["events"]))
        if each.service == "little" and each.origin == "spawned"
    ]
    assert value["own"] > 10 << 20
    assert first.max_rss == 0
    assert value["totals"]["little"] < 10 << 20


def test_hundreds_of_children_that_die_at_once(child: str, marked: Setting) -> None:
    count = 300
    value = run(reaping.many_children, child, count, setting=marked)
    exits = exits_of(events_of(value["events"]))
    assert Counter(each.service for each in exits) == {
        f"org.test.N{number}": 1 for number in range(count)
    }
    assert {(each.code, each.status == each.pid % 250) for each in exits} == {(CLD_EXITED, True)}
    assert value["left"] is False


@pytest.mark.parametrize("mode", ["burst", "stream"])
def test_a_storm_of_orphans(child: str, mode: str, marked: Setting) -> None:
    count = 3000
    value = run(reaping.storm, child, mode, count, setting=marked)
    events = events_of(value["events"])
    how = "cgroup" if marked.cgroup else "tag"
    orphans = [each for each in exits_of(events) if each.origin == "adopted"]
    assert len(orphans) == count
    assert {(each.service, each.attribution) for each in orphans} == {("org.test.Storm", how)}
    assert {(each.code, each.status == each.pid % 250) for each in orphans} == {(CLD_EXITED, True)}
    # Told once each; a PID may come again, but only after its exit.
    started = Counter(each.pid for each in events if each.kind == "started")
    assert started == Counter(each.pid for each in exits_of(events))
    assert Counter(each.service for each in events if each.kind == "emptied") == {
        "org.test.Storm": 1,
        "org.test.Other": 1,
    }
    assert value["reaped"] == count + 2
    assert (value["live"], value["left"]) == (0, False)


@pytest.mark.parametrize("mode", ["burst", "stream"])
def test_the_loop_has_its_turns_in_a_storm(child: str, mode: str) -> None:
    value = run(reaping.storm, child, mode, 3000)
    in_turn = Counter(each.turn for each in exits_of(events_of(value["events"])))
    # Turns are counted in the midst of them, so one may have the end of the one before.
    assert max(in_turn.values()) <= 2 * BATCH
    assert len(in_turn) >= 3000 // (2 * BATCH)


def test_a_fault_with_one_zombie_does_not_stop_the_others(child: str) -> None:
    well = {"raised": 1, "identified": True, "seen": True, "left": False}
    assert run(reaping.reap_in_spite_of_errors, child) == [well, well]


@pytest.mark.parametrize("kind", ["started", "exited", "emptied"])
def test_a_fault_of_the_listener_loses_no_process(child: str, kind: str) -> None:
    value = run(reaping.events_that_fail, child, kind)
    assert value["dead"] == 18
    assert value["faults"] == ["_WrongError"]
    events = events_of(value["events"])
    assert Counter(each.service for each in exits_of(events)) == {
        f"org.test.N{number}": 3 for number in range(6)
    }
    emptied = Counter(each.service for each in events if each.kind == "emptied")
    assert emptied == {f"org.test.N{number}": 1 for number in range(6)}
    assert (value["waited"], value["left"]) == (True, False)


def test_a_batch_says_whether_there_is_more(child: str) -> None:
    assert run(reaping.batches, child) == [[BATCH, False], [1, True], [0, True]]


def test_nothing_to_reap_is_an_end_of_the_drain(child: str) -> None:
    assert run(reaping.nothing_to_reap, child) == [True, True]


def test_a_child_is_identified_while_it_is_a_zombie(child: str) -> None:
    assert run(reaping.zombie_while_identified, child) == ["Z", None]


def test_sigchld_ignored_at_start_is_mended(child: str) -> None:
    # What there is to mend.
    assert run(reaping.ignored, child) == "ECHILD"
    exits = exits_of(events_of(run(reaping.ignored_at_start, child)))
    assert [(each.code, each.status) for each in exits] == [
        (CLD_EXITED, 107),
        (CLD_EXITED, 107),
        (CLD_EXITED, 7),
    ]


def test_waiting_for_a_condition(child: str) -> None:
    assert run(reaping.until_gone, child) == [True, False, True, True, True]


# Those that can be reaped meanwhile are, and then the loop rests.
HELD = {"others": 3, "drains": 0}


def test_a_process_without_its_first_thread_is_no_dead_process(child: str) -> None:
    value = run(reaping.leaderless, child)
    assert (value["before"], value["held"]) == (["Z", True], HELD)
    (death,) = [
        each for each in exits_of(events_of(value["events"])) if each.service == "org.test.Any"
    ]
    assert (death.code, death.status) == (CLD_EXITED, 9)


@pytest.mark.parametrize("mode", ["trace", "tracetoend"])
def test_a_dead_process_is_reaped_when_its_debugger_lets_it_go(child: str, mode: str) -> None:
    value = run(reaping.traced, child, mode)
    if value is None:
        pytest.skip("nobody may trace anybody here")
    assert (value["before"], value["held"]) == (["Z", True], HELD)
    deaths = {
        each.service: (each.code, each.status)
        for each in exits_of(events_of(value["events"]))
        if each.origin == "spawned"
    }
    assert deaths["org.test.Any"] == (CLD_EXITED, 9)
    ends = [(CLD_EXITED, 8), (CLD_KILLED, signal.SIGKILL)]
    assert deaths["org.test.Tracer"] in (ends if mode == "trace" else ends[1:])
