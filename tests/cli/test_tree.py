"""The picture of a process tree."""

from __future__ import annotations

import os
from typing import Any

import pytest

from broker.cli import analyze, exits, output, tree
from broker.client.snapshot import Snapshot
from broker.process import clock, procfs

NAME = "org.example.Calculator"


def record(pid: int, ppid: int, at: int, command: str, **changes: Any) -> dict[str, Any]:
    """A Process object's properties."""
    values: dict[str, Any] = {
        "PID": pid,
        "PPID": ppid,
        "ServiceName": NAME,
        "Origin": "spawned",
        "State": "running",
        "Command": command.split(),
        "StartTimestampMonotonic": at,
        "ExitCode": 0,
        "ExitStatus": 0,
    }
    return values | changes


def test_children_stand_below_their_parents_and_orphans_below_their_service() -> None:
    snapshot = Snapshot(
        services={},
        processes={
            "/3": record(4121, 4070, 34_000, "calc-worker", Origin="adopted"),
            "/1": record(4080, 4070, 11_000, "/usr/bin/calc --dbus"),
            "/2": record(4082, 4080, 20_000, "sh -c probe", State="exited", ExitCode=1),
            "/4": record(4060, 4070, 0, "dbus-broker", ServiceName=""),
        },
    )
    lines = tree.lines(tree.rows(snapshot, service=None, exited=True), 0, legend=True)
    assert list(lines) == [
        "    PID    PPID  EXIT     STARTED   COMMAND",
        "   4060    4070  -        +0.000s   dbus-broker",
        "                                    org.example.Calculator",
        "   4080    4070  -        +0.011s   /usr/bin/calc --dbus",
        "   4082    4080  0        +0.020s   ├─ sh -c probe",
        "   4121    4070  -        +0.034s   └─ calc-worker  (adopted)",
    ]


def test_an_orphan_stands_below_the_process_that_it_comes_from() -> None:
    """Of two activations; in the same tick as its start; where that process is not shown."""
    spawned = {"State": "exited", "ExitCode": 1}
    snapshot = Snapshot(
        services={},
        processes={
            "/1": record(12, 1, 5000, "second-daemon", Origin="adopted", Activation=2),
            "/2": record(11, 1, 5000, "second", Activation=2, **spawned),
            "/3": record(13, 1, 5000, "second-helper", Origin="adopted", Activation=2),
            "/4": record(9, 1, 2000, "first", Activation=1, **spawned),
            "/5": record(10, 1, 2500, "first-helper", Origin="adopted", Activation=1),
        },
    )
    found = tree.lines(tree.rows(snapshot, service=None, exited=True), 0, legend=False)
    assert [line[36:] for line in found][1:] == [
        "first",
        "└─ first-helper  (adopted)",
        "second",
        "├─ second-daemon  (adopted)",
        "└─ second-helper  (adopted)",
    ]
    # It is no matter which of them was found first.
    snapshot.services["/"] = {"Name": NAME, "MainPID": 13, "PIDs": []}
    found = tree.lines(tree.rows(snapshot, service=None, exited=False), 0, legend=False)
    assert [line[36:] for line in found][1:] == [
        "first-helper  (adopted)",
        "second-helper  (adopted)",
        "└─ second-daemon  (adopted)",
    ]


def test_an_orphan_that_is_older_by_the_kernels_word_stands_alone() -> None:
    """It was put into a cgroup of ours."""
    records = {
        "/1": record(12, 1, 5000, "service", Activation=1),
        "/2": record(11, 1, 2000, "guest", Origin="adopted", Activation=1),
    }
    found = tree.rows(Snapshot({}, records), service=NAME, exited=False)
    assert [(root.command, root.children) for root in found] == [("guest", []), ("service", [])]


def test_a_child_without_a_record_does_not_seem_older_than_its_parent() -> None:
    about = procfs.stat(os.getpid())
    assert about is not None
    # Nobody knows our start to more than a tick, and this is somewhere in it.
    start = clock.of_ticks(about.start_ticks).monotonic + 9_000
    above = procfs.stat(os.getppid())
    assert above is not None
    # As the engine's, by which it is known that our /proc is the broker's.
    parent = record(os.getppid(), above.ppid, start, "parent")
    parent["Command"] = list(procfs.command(os.getppid(), above))
    service = {"Name": NAME, "MainPID": 0, "PIDs": [os.getppid(), os.getpid()]}
    (root,) = tree.rows(Snapshot({"/": service}, {"/1": parent}), service=NAME, exited=False)
    (child,) = root.children
    assert (child.pid, child.started) == (os.getpid(), start)


def test_a_pid_that_came_again_is_two_processes() -> None:
    snapshot = Snapshot(
        services={},
        processes={
            "/1": record(100, 1, 0, "first", State="exited", ExitCode=1),
            "/2": record(101, 100, 2_000_000, "its-child"),
            # Its parent is the second's child, which was there before.
            "/3": record(100, 101, 9_000_000, "second"),
            "/4": record(102, 100, 9_900_000, "its-child"),
        },
    )
    lines = tree.lines(tree.rows(snapshot, service=None, exited=True), 0, legend=False)
    assert [line[36:] for line in lines][1:] == [
        "first",
        "└─ its-child",
        "   └─ second",
        "      └─ its-child",
    ]


def test_a_tree_may_be_deeper_than_the_stack() -> None:
    many = 3000
    records = {f"/{pid}": record(pid, pid - 1, pid * 2_000_000, "x") for pid in range(1, many + 1)}
    snapshot = Snapshot(services={}, processes=records)
    roots = tree.rows(snapshot, service=None, exited=False)
    assert sum(1 for root in roots for _ in tree.branches(root)) == many
    assert len([*analyze._graph(snapshot)]) > many  # noqa: SLF001 - of a verb's


def test_lines_leave_room_for_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda: 50)
    snapshot = Snapshot(services={}, processes={"/1": record(4080, 4070, 0, "x" * 80)})
    for margin in (0, 2):
        rows = tree.rows(snapshot, service=None, exited=True)
        lines = [*tree.lines(rows, 0, legend=True, margin=margin)]
        assert max(map(len, lines)) == 50 - margin
        assert lines[-1].endswith("xx…")


def test_ended_processes_are_shown_on_request_only() -> None:
    ended = record(7, 1, 0, "x", State="exited", ExitCode=2, ExitStatus=11)
    snapshot = Snapshot(services={}, processes={"/1": ended})
    assert tree.rows(snapshot, service=NAME, exited=False) == []
    (row,) = tree.rows(snapshot, service=NAME, exited=True)
    assert row.exit == "SIGSEGV"
    assert tree.rows(snapshot, service="org.other.Name", exited=True) == []


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (0, 0, "-"),
        (1, 0, "0"),
        (1, 255, "255"),
        (2, 9, "SIGKILL"),
        (3, 6, "SIGABRT"),
        (2, 40, "SIG40"),
    ],
)
def test_exits_in_words(code: int, status: int, word: str) -> None:
    assert exits.exit_word(code, status) == word
