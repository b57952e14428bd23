"""A service is all of its processes; a signal reaches them, and nobody else."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.core.exits import CLD_EXITED, CLD_KILLED
from tests.process.harness import NOBODY, Setting, events_of, run
from tests.process.scenarios import signalling

if TYPE_CHECKING:
    from collections.abc import Iterator

# Some seconds of forking: more than any loop of kills takes.
HOPS = 20_000


def test_a_tree_is_all_descendants_parents_first(child: str, marked: Setting) -> None:
    value = run(signalling.trees, child, setting=marked)
    found = value["found"]
    reports = {
        name: {int(pid): parent for pid, parent in report.items()}
        for name, report in value["reports"].items()
    }
    assert found[""] == [value["stray"]]
    assert found["single"] == [value["single"]]
    assert found["unknown"] == value["after"] == []
    for name, size in (("below", 15), ("orphan", 7)):
        report = reports[name]
        assert len(report) == size
        assert sorted(found[name]) == sorted(report)
        place = {pid: index for index, pid in enumerate(found[name])}
        for pid, parent in report.items():
            assert parent not in report or place[parent] < place[pid]
    everything = [pid for name in ("", "below", "orphan", "single") for pid in found[name]]
    assert sorted(found["None"]) == sorted(everything)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_every_process_of_the_service(
    child: str, marked: Setting, number: int
) -> None:
    value = run(signalling.terminate, child, int(number), setting=marked)
    events = events_of(value["events"])
    ends = Counter((each.service, each.code, each.status) for each in events if each.code)
    assert ends == {
        ("org.test.Tree", CLD_KILLED, number): 15,
        ("org.test.Other", CLD_EXITED, 7): 1,
    }
    assert value["again"] == 0
    if number != signal.SIGKILL or not marked.cgroup:
        assert value["sent"] == 15


def test_a_signal_reaches_children_whose_parent_it_has_ended_before(child: str) -> None:
    value = run(signalling.parents_that_end_first, child)
    ends = Counter((each.code, each.status) for each in events_of(value["events"]) if each.code)
    assert ends == {(CLD_KILLED, signal.SIGINT): 3}
    assert value["sent"] == 3


def test_the_broker_may_be_the_first_process_of_a_container(child: str) -> None:
    value = run(signalling.as_first_process, child)
    if value is None:
        pytest.skip("this user may make no namespace of processes")
    assert value["pid"] == 1
    assert value["services"] == ["org.test.Tree"]
    assert value["sent"] == 7
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    assert Counter((each.service, each.code, each.status) for each in exits) == {
        ("org.test.Tree", CLD_KILLED, signal.SIGTERM): 7,
        ("org.test.Daemon", CLD_EXITED, 105): 2,
        ("org.test.Daemon", CLD_EXITED, 5): 1,
    }


def test_sigterm_ends_stopped_processes(child: str) -> None:
    value = run(signalling.stopped, child)
    assert [state == "T" for state in sorted(value["states"])] == [False, True, True]
    assert value["sent"] == [2, 1]
    ends = [(each.code, each.status) for each in events_of(value["events"]) if each.code]
    assert ends == [(CLD_KILLED, signal.SIGTERM)] * 3


def test_a_stop_is_no_end(child: str) -> None:
    value = run(signalling.stop_and_go_on, child)
    assert value["stopped"] == ["T", True]
    kinds = [(each.kind, each.status) for each in events_of(value["events"])]
    assert kinds == [("started", 0), ("exited", 4), ("emptied", 0)]


def test_a_service_that_ignores_sigterm_can_be_killed(child: str) -> None:
    value = run(signalling.ignoring, child)
    assert (value["sent"], value["alive"], value["killed"]) == (1, True, 1)
    (end,) = [each for each in events_of(value["events"]) if each.kind == "exited"]
    assert (end.code, end.status) == (CLD_KILLED, signal.SIGKILL)


def test_a_killed_services_processes_are_killed_when_they_come_to_us(child: str) -> None:
    value = run(signalling.unseen, child)
    assert value["sent"] == 1
    ends = Counter((each.code, each.status) for each in events_of(value["events"]) if each.code)
    assert ends == {(CLD_KILLED, signal.SIGKILL): 31}


def test_a_cgroup_is_killed_as_a_whole(child: str, in_cgroups: Setting) -> None:
    value = run(signalling.in_one_blow, child, setting=in_cgroups)
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    assert Counter((each.attribution, each.code, each.status) for each in exits) == {
        ("spawned", CLD_KILLED, signal.SIGKILL): 1,
        ("cgroup", CLD_KILLED, signal.SIGKILL): 30,
    }
    assert value["dead"] is True


def test_only_what_was_there_is_killed(child: str, marked: Setting) -> None:
    value = run(signalling.killed_again, child, setting=marked)
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    ends = Counter((each.service, each.code, each.status % 100) for each in exits)
    assert ends == {
        ("org.test.Any", CLD_EXITED, 1): 2,
        ("org.test.Any", CLD_KILLED, signal.SIGKILL): 1,
        ("org.test.Any", CLD_EXITED, 2): 3,
        ("org.test.Other", CLD_EXITED, 1): 3,
    }
    # Whether the cgroup was faster is open; there is nobody the third time.
    assert value["sent"][2] == 0


def test_all_is_what_is_there(child: str, setting: Setting) -> None:
    value = run(signalling.all_killed, child, setting=setting)
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    assert Counter((each.code, each.status % 100) for each in exits) == {
        (CLD_EXITED, 1): 4,
        (CLD_KILLED, signal.SIGKILL): 2 + 2,
        (CLD_EXITED, 2): 3 * 3,
    }
    assert value["sent"] == [0, 2, 2]


@pytest.mark.parametrize("by_service", [True, False], ids=["service", "all"])
def test_processes_that_fork_and_go_are_caught(
    child: str, marked: Setting, by_service: bool
) -> None:
    _check_hoppers(run(signalling.hoppers, child, HOPS, by_service, setting=marked))


def test_unknown_processes_are_caught(child: str, user: int | None) -> None:
    _check_hoppers(run(signalling.hoppers, child, HOPS, False, setting=Setting(user, tag=False)))


def _check_hoppers(value: Any) -> None:
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    # None came to its end.
    assert Counter(each.status for each in exits if each.code == CLD_EXITED).keys() == {0}
    assert Counter(each.status for each in exits if each.code == CLD_KILLED).keys() == {9}
    assert len(exits) < 2 * HOPS


def test_a_process_that_is_not_below_us_is_never_signalled(child: str) -> None:
    value = run(signalling.strangers, child)
    assert (value["alive"], value["code"]) == (True, 5)
    assert value["sent"] == {
        "sibling": [False, False],
        "ourselves": False,
        "gone": False,
        "own": True,
    }


def test_another_brokers_process_with_the_same_tag_is_not_killed(child: str) -> None:
    value = run(signalling.same_tag, child)
    assert value == {"same": True, "hit": False, "code": 5}


def test_a_pid_that_has_become_a_strangers_is_not_signalled(child: str) -> None:
    value = run(signalling.reused, child)
    assert value["tree"] is True
    assert value["code"] == 5
    assert value["sent"] == 1


@pytest.fixture
def setuid_child(child: str) -> Iterator[str]:
    """The same program, which is root for everybody who starts it."""
    path = Path(child).with_name("child-setuid")
    shutil.copy(child, path)
    path.chmod(0o4755)
    yield str(path)
    path.unlink()


def test_a_process_that_we_may_not_signal_does_not_protect_the_others(setuid_child: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a program that becomes root")
    if os.statvfs(setuid_child).f_flag & os.ST_NOSUID:
        pytest.skip("no program can become another user there")
    value = run(signalling.another_users, setuid_child, setting=Setting(NOBODY))
    assert (value["sent"], value["alive"]) == (1, True)
    assert value["warned"] == ["process PID is another user's and cannot be ended"]
    # Which user the program is says nothing about how it ended.
    assert value["ends"] == [[CLD_EXITED, 5], [CLD_KILLED, signal.SIGTERM]]
