"""A cgroup for each activation: in it from the first instruction, gone with its last process."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from broker.core.exits import CLD_KILLED
from tests.process.harness import NOBODY, Setting, events_of, run
from tests.process.scenarios import grouping


def test_the_broker_waits_where_the_next_service_will_be(child: str, in_cgroups: Setting) -> None:
    found = run(grouping.life_of_directories, child, setting=in_cgroups)
    home = found["home"]
    start, spawned, turn = (found[when] for when in ("start", "spawned", "turn"))
    assert start["where"]["broker"].startswith(f"{home}/dbus-activator-")
    # The first service was born where the broker was, which then moved on.
    assert spawned["where"]["first"] == start["where"]["broker"]
    assert turn["where"]["first"] == start["where"]["broker"]
    assert turn["where"]["broker"] not in {home, start["where"]["broker"]}
    assert len(set(found["three"]["where"].values())) == 4


def test_a_directory_goes_with_the_last_process_in_it(child: str, in_cgroups: Setting) -> None:
    found = run(grouping.life_of_directories, child, setting=in_cgroups)
    counts = {when: len(each["directories"]) for when, each in found.items() if when != "home"}
    assert counts == {
        "start": 1,
        "spawned": 1,
        "turn": 2,
        "three": 4,
        "one gone": 3,
        "all gone": 1,
        "end": 0,
    }
    assert found["end"]["where"] == {"broker": found["home"]}


def test_no_directory_is_made_where_there_are_tags(child: str, in_cgroups: Setting) -> None:
    del in_cgroups
    found = run(grouping.life_of_directories, child, setting=Setting(cgroup=True, tag=True))
    home = found.pop("home")
    assert {where for each in found.values() for where in each["where"].values()} == {home}
    assert [each["directories"] for each in found.values()] == [[]] * 7


def test_a_broker_in_the_root_of_the_hierarchy(child: str, in_cgroups: Setting) -> None:
    value = run(grouping.at_the_root, child, setting=in_cgroups)
    found = Counter(each.attribution for each in events_of(value["events"]) if each.code)
    assert found == {"spawned": 1, "cgroup": 2}
    assert (value["before"], value["after"]) == (1, [])


def test_the_broker_does_not_kill_itself(child: str, in_cgroups: Setting) -> None:
    events = events_of(run(grouping.killed_at_once, child, setting=in_cgroups))
    started = Counter(each.service for each in events if each.kind == "started")
    exited = Counter(each.service for each in events if each.kind == "exited")
    assert started == exited
    assert exited.keys() == {f"org.test.N{turns}" for turns in range(3)}
    # All but those that had ended by themselves, having forked.
    assert Counter(each.code for each in events if each.status == 9)[CLD_KILLED] >= 6


def test_a_cgroup_below_an_activations_is_the_activations(child: str, in_cgroups: Setting) -> None:
    events = events_of(run(grouping.moved_on, child, setting=in_cgroups))
    orphans = [each for each in events if each.kind == "exited" and each.origin == "adopted"]
    assert [(each.service, each.attribution) for each in orphans] == [
        ("org.test.Below", "cgroup")
    ] * 2


def test_directories_that_cannot_be_entered_are_not_left(child: str, in_cgroups: Setting) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a part of a cgroup to somebody else")
    value = run(grouping.delegated_in_part, child, setting=in_cgroups, becomes=NOBODY)
    assert value["directories"] == []
    found = Counter(each.attribution for each in events_of(value["events"]) if each.code)
    # Without marks, what it leaves behind may end after it is thought to be over.
    assert found["spawned"] == 1
    assert found["cgroup"] == 0


def test_the_first_refusal_is_the_end_of_cgroups_not_of_those_that_are(
    child: str, in_cgroups: Setting
) -> None:
    names = [f"org.test.N{number}" for number in range(4)]
    value = run(grouping.no_more_directories, child, names, setting=in_cgroups)
    # The first two have cgroups, and keep them.
    found = dict(value["live"])
    assert found.pop(names[0]) == found.pop(names[1]) == "cgroup"
    assert found == {"": "none"}
    assert value["cgroups"] == 3
    assert value["home"] is True
    assert value["left"] == []


def test_a_broker_that_cannot_leave_a_services_cgroup_does_not_trust_it(
    child: str, in_cgroups: Setting
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a cgroup to an ordinary user")
    del in_cgroups
    value = run(grouping.stuck, child, setting=Setting(NOBODY, cgroup=True, tag=False))
    assert value["stuck"] is True
    exits = [each for each in events_of(value["events"]) if each.kind == "exited"]
    assert len(exits) == 9
    for each in exits:
        number = 0 if each.code == CLD_KILLED else each.status % 100
        if each.origin == "adopted":
            assert (each.service, each.attribution) in {
                ("", "none"),
                (f"org.test.N{number}", "session"),
            }
    assert value["left"] == []
