"""What a service inherits, and the error of a program that cannot be started."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from broker.core.exits import CLD_EXITED
from tests.process.harness import NOBODY, Setting, events_of, run
from tests.process.scenarios import spawning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NULL = "/dev/null"
EXEC_FAILED = ("SpawnExecFailed", "exec-failed")
RESOURCES = ("SpawnFailed", "resources")
LIMITS = ("LimitsExceeded", "resources")
# The two that glibc keeps for itself: its posix_spawn has them ignored in every child.
INTERNAL = {32, 33}


@pytest.fixture(params=["posix_spawn", "fork"])
def way(request: pytest.FixtureRequest) -> str:
    """Both ways to start a program: a child must not know by which it was started."""
    found: str = request.param
    return found


def run_by(way: str, scenario: Callable[..., Any], *arguments: Any) -> Any:
    """What a scenario returned, with programs started in one way."""
    if way == "fork":
        return run(spawning.by_fork, scenario.__name__, *arguments)
    return run(scenario, *arguments)


def test_signals_are_as_at_login_whatever_the_broker_does_with_them(way: str) -> None:
    found = run_by(way, spawning.signals)
    parent = found["parent"]
    rt = int(signal.SIGRTMIN)
    ignored = {signal.SIGPIPE, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, rt + 3}
    assert ignored <= set(parent["SigIgn"])
    assert {signal.SIGUSR2} <= set(parent["SigCgt"])
    assert {signal.SIGCHLD, signal.SIGTERM, rt + 2} <= set(parent["SigBlk"])
    child = found["child"]
    assert (child["SigBlk"], set(child["SigIgn"]) - INTERNAL, child["SigCgt"]) == ([], set(), [])


def test_a_command_keeps_what_the_broker_was_started_with(way: str) -> None:
    found = run_by(way, spawning.signals)
    # Python's own are not what it was started with.
    kept = set(found["parent"]["SigIgn"]) - {signal.SIGPIPE, signal.SIGXFSZ}
    assert set(found["kept"]["SigIgn"]) - INTERNAL == kept
    assert found["kept"]["SigBlk"] == found["kept"]["SigCgt"] == []
    assert found["masked"]["SigBlk"] == [signal.SIGUSR2, signal.SIGTERM]


def test_a_service_leads_a_session_of_its_own(way: str) -> None:
    found = run_by(way, spawning.sessions)
    pid, group, session = found["own"]
    assert pid == group == session
    assert found["ours"][1:] == found["parent"]


def test_standard_streams_are_null_or_ours(way: str) -> None:
    ours = [f"/memfd:ours{fd} (deleted)" for fd in (0, 1, 2)]
    assert run_by(way, spawning.standard_streams) == {
        "True,True": [NULL, NULL, NULL],
        "True,False": [NULL, *ours[1:]],
        "False,True": [ours[0], NULL, NULL],
        "False,False": ours,
    }


def test_no_descriptor_of_ours_is_a_services(child: str, way: str) -> None:
    found = run_by(way, spawning.descriptors, child)
    assert set(found["inheritable"]) <= set(found["before"])
    assert found["changed"] == found["inheritable"]
    assert found["again"] == []
    assert found["after"] == [0, 1, 2]
    assert found["given"] == [0, 1, 2, 7, 150]


MAPPINGS = {
    "two": [(3, 10), (4, 11)],
    "swapped": [(10, 11), (11, 10)],
    "rotated": [(10, 11), (11, 12), (12, 10)],
    "itself": [(10, 10)],
    "twice": [(3, 10), (4, 10), (10, 11)],
    # Where copies may be on their way.
    "high": [(fd, 10 + fd - 64) for fd in range(64, 80)],
    "high, downwards": [(fd, 10 + fd - 64) for fd in range(80, 63, -1)],
    "far": [(500, 10), (3, 11)],
}


def test_descriptors_get_the_numbers_that_were_asked_for(way: str) -> None:
    found = run_by(way, spawning.mappings, list(MAPPINGS.values()))
    expected = ["".join(str(ours) for _, ours in case) for case in MAPPINGS.values()]
    assert dict(zip(MAPPINGS, found, strict=True)) == {
        name: [0, text] for name, text in zip(MAPPINGS, expected, strict=True)
    }


def test_the_environment_is_what_was_given_and_nothing_else(way: str) -> None:
    found = run_by(way, spawning.environments)
    assert len(found) == 3
    for given, got in found:
        assert got == given


def test_arguments_are_what_was_given(way: str) -> None:
    for given, got in run_by(way, spawning.arguments):
        assert got == given


def test_only_a_command_is_searched_for(way: str) -> None:
    found, unsearched, missing = run_by(way, spawning.search)
    assert found == "found\n"
    assert unsearched[0] == missing[0] == "SpawnExecFailed"


def test_a_refused_program_leaves_a_reason_and_no_process(tmp_path: Path, way: str) -> None:
    def failed(name: str, file: str, reason: str) -> list[str]:
        path = tmp_path / file if file else tmp_path
        return [*EXEC_FAILED, f"Failed to execute program {name}: {path}: {reason}"]

    call = "execve" if way == "fork" else way
    missing = "No such file or directory"
    nul = "Failed to execute program NUL: embedded null byte"
    found = run_by(way, spawning.refusals, str(tmp_path))
    not_utf8 = found.pop("not UTF-8")
    assert not_utf8[:2] == [*RESOURCES]
    assert not_utf8[2].startswith("Failed to execute program bad: 'utf-8' codec can't encode")
    assert found == {
        "missing": failed("missing", "none", missing),
        "no permission": failed("no permission", "plain", "Permission denied"),
        "directory": failed("directory", "", "Permission denied"),
        "no format": failed("no format", "text", "Exec format error"),
        "no interpreter": failed("no interpreter", "script", missing),
        "busy": failed("busy", "busy", "Text file busy"),
        "under a file": failed("under a file", "busy/program", "Not a directory"),
        "empty": [
            *RESOURCES,
            f"Failed to execute program empty: {call}: argv first element cannot be empty",
        ],
        "long": failed("long", "x" * 300, "File name too long"),
        "NUL argument": [*RESOURCES, nul],
        "NUL variable": [*RESOURCES, nul],
        "bad variable": [
            *RESOURCES,
            "Failed to execute program bad: illegal environment variable name",
        ],
        "too much": [
            *EXEC_FAILED,
            "Failed to execute program much: /bin/true: Argument list too long",
        ],
    }


def test_the_error_of_a_user_without_processes_left() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be a user that has no process yet")
    reason = "Failed to fork a new process org.test.Many: Resource temporarily unavailable"
    assert run(spawning.no_processes_left, setting=Setting(NOBODY)) == [*LIMITS, reason]


def test_the_error_of_a_full_table_of_descriptors() -> None:
    reason = "Failed to fork a new process org.test.Many: Too many open files"
    assert run(spawning.no_descriptors_left) == [[*LIMITS, reason], 0]


def test_refused_starts_leave_no_record_and_no_mark(
    child: str, own_setting: Setting, tmp_path: Path
) -> None:
    value = run(spawning.refused_activations, child, str(tmp_path), setting=own_setting)
    events = events_of(value["events"])
    assert set(value["refused"]) == {"SpawnExecFailed", "SpawnFailed"}
    assert {each.service for each in events} <= {"org.test.Before", "org.test.After", ""}
    names = {1: "org.test.Before", 2: "org.test.After"}
    for each in events:
        if each.kind == "exited":
            assert each.code == CLD_EXITED
            assert each.service == names[each.status % 100] or not own_setting.tag
    assert Counter(each.kind for each in events) == {"started": 6, "exited": 6, "emptied": 2}
    assert value["kept"] == [0, 0, 0]


def test_the_file_limit_is_raised_only_where_it_is_asked_for() -> None:
    before, within, after, after_error, ours = run(spawning.file_limits)
    assert before == after == after_error == ours == [256, 512]
    assert within == [512, 512]
