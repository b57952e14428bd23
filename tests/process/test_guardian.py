"""When a broker is killed, its guardian ends what it had started, and nothing else."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.harness import NOBODY, Setting, can_make_cgroups, events_of, run
from tests.process.scenarios import guarding

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]
MODES = ["plain", "daemon", "emptyenv", "dumpable", "limits", "hop", "hop", "ignoring", "stopped"]
LOWERED = ["lowered", "sized"]  # either of the limits that are marks


@pytest.mark.parametrize("losses", [0, 1])
@pytest.mark.parametrize("mark", ["tag", "cgroup"])
def test_all_that_a_killed_broker_has_started_ends_and_nothing_else(
    child: str, user: int | None, mark: str, losses: int
) -> None:
    if mark == "cgroup" and not can_make_cgroups():
        pytest.skip("this user may make no cgroups here")
    modes = MODES + ["nobody"] * (user is None and os.geteuid() == 0)
    modes += LOWERED * (mark == "tag")
    setting = Setting(user, cgroup=mark == "cgroup", tag=mark == "tag")
    value = run(guarding.killed, child, modes, losses, setting=setting)
    assert (value["alive"], value["code"]) == (True, 5)
    print(f"{value['took'] * 1000:.0f} ms")  # noqa: T201 - for whoever wants to know


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_brokers_with_the_same_tags_do_not_end_each_others_services(
    child: str, user: int | None, depth: int
) -> None:
    value = run(guarding.side_by_side, child, depth, setting=Setting(user))
    one, other = value["tags"]
    assert one == other
    assert value["alive"] == [True] * 4
    assert value["held"] is True


@pytest.mark.parametrize("guarded", [True, False])
def test_a_chase_passes_by_what_bears_another_brokers_tag(child: str, guarded: bool) -> None:
    value = run(guarding.chased, child, guarded)
    ours, theirs = value["tags"]
    assert ours == theirs
    assert (value["found"], value["alive"]) == (False, True)


def test_a_process_that_is_no_longer_ours_is_not_killed(child: str) -> None:
    value = run(guarding.left_between, child)
    assert (value["before"], value["after"]) == (True, False)
    assert (value["killed"], value["code"]) == (False, 5)


@pytest.mark.parametrize("times", [1, 4, 5])
def test_a_lost_guardian_is_replaced_and_told_of(child: str, times: int) -> None:
    value = run(guarding.lost, child, times)
    assert value["pids"] == times + 1
    assert bool(value["last"]) is (times < 5)
    said = ["guardian lost (code 2, status 9); another was started"] * times
    if times == 5:
        said[-1] = "guardian lost (code 2, status 9); if we are killed, services stay"
    assert value["messages"] == said
    # It is no process of any service's, before and after.
    assert value["live"] is value["tree"] is True
    assert set(value["whose"]) == {None}
    kinds = [(each.kind, each.service, each.status) for each in events_of(value["events"])]
    assert kinds == [
        ("started", "org.test.Any", 0),
        ("exited", "org.test.Any", signal.SIGKILL),
        ("emptied", "org.test.Any", 0),
    ]


def test_where_nothing_can_be_marked_it_is_said_and_nobody_is_hurt(
    child: str, user: int | None
) -> None:
    value = run(guarding.unmarked, child, setting=Setting(user, tag=False))
    assert value["guardian"] == 0
    assert value["messages"] == ["processes cannot be marked: if we are killed, they stay"]


def test_a_guardian_has_nothing_of_the_brokers_and_goes_with_it(child: str) -> None:
    value = run(guarding.looks, child)
    assert value["name"] == "broker-guardian"
    assert value["leader"] is True
    # Its standard error is the broker's, to say why all ends.
    kinds = [each.partition(":")[0] for each in value["files"]]
    assert kinds == ["/dev/null", "anon_inode", "pipe", "socket"]
    assert value["alive"] is True
    assert value["left"] is False
