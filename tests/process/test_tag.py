"""RLIMIT_LOCKS marks what is spawned; it cannot be mistaken, nor taken away."""

from __future__ import annotations

import os
import resource
from collections import Counter

import pytest

from broker.process.tag import RLIMIT_LOCKS
from tests.process.harness import NOBODY, Setting, events_of, run
from tests.process.scenarios import tagging

INFINITY = resource.RLIM_INFINITY
if resource.getrlimit(RLIMIT_LOCKS)[1] != INFINITY:
    pytest.skip("the tests run under a limit of locks", allow_module_level=True)

STRIDES = [1 << 32, 1 << 12, 1, 0]
TOP = 1 << 62
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has processes of two users")


@pytest.mark.parametrize("user", [None, pytest.param(NOBODY, marks=needs_root)])
def test_each_value_is_the_soft_and_the_hard_limit_of_what_is_spawned(
    child: str, user: int | None
) -> None:
    value = run(tagging.values, child, 4, setting=Setting(user))
    assert value["stride"] == STRIDES[0]
    expected = [TOP - number * STRIDES[0] for number in range(1, 5)]
    # The child raises each soft limit to its hard one; it is a zombie when it is read.
    assert value["found"] == [[each, [each, each], [each, each], each] for each in expected]


@pytest.mark.parametrize("user", [None, pytest.param(NOBODY, marks=needs_root)])
def test_a_tagged_process_cannot_raise_its_limit(user: int | None) -> None:
    assert run(tagging.raising, setting=Setting(user)) == ["refused"] * 4


def test_nested_brokers_stay_within_the_range_of_the_service_that_they_are() -> None:
    levels = run(tagging.nesting, 3)
    assert [level["stride"] for level in levels] == STRIDES
    assert levels[3]["own"] == [None] * 3
    top = TOP
    for level in levels[:3]:
        assert level["own"] == [top - number * level["stride"] for number in (1, 2, 3)]
        # The nested broker was started as the second.
        top = level["own"][1]
    # Nothing below it is anything else to the outer ones, however deep it is.
    assert levels[0]["below"] == [[2, "tag"]] * 6
    assert levels[1]["below"] == [[2, "tag"]] * 3
    assert levels[2]["below"] == []


def test_a_range_ends_where_the_next_begins() -> None:
    assert run(tagging.decoding) == [
        [0, None],
        [1, None],
        [4095, None],
        [4096, 1],
        [4097, 1],
        [8191, 1],
        [8192, 2],
        [8193, 2],
        [12287, 2],
        [12288, None],
        [12289, None],
    ]


@pytest.mark.parametrize("hard", [5 << 12, 1 << 12, (7 << 32) + (3 << 12)])
def test_values_end_before_the_range_does(hard: int) -> None:
    found = run(tagging.exhaustion, hard)
    assert found["stride"] == 1
    assert found["first"] == [hard - 1]
    assert found["falling"] is True
    assert found["again"] == [None] * 3
    # The last value is nobody's: what is started afterwards bears it.
    assert found["last"] == [found["limit"] + 1]
    assert found["limit"] > hard - (1 << 12)
    assert found["count"] == (1 << 12) - 2


def test_what_is_started_without_a_value_is_not_taken_for_the_last_that_had_one(
    child: str,
) -> None:
    value = run(tagging.exhausted_services, child)
    assert value["messages"] == [
        "no marks are left: new services that daemonize will not be tracked"
    ]
    events = events_of(value["events"])
    exits = [each for each in events if each.kind == "exited" and each.origin == "adopted"]
    found = Counter((each.status % 100, each.service, each.attribution) for each in exits)
    tagged = {each for each in found if each[2] == "tag"}
    # Some of each kind, or the number of values has changed.
    assert {number for number, _, _ in tagged} == {0, 1}
    for number, service, how in found:
        assert (service, how) in {
            (f"org.test.N{number}", "tag"),
            (f"org.test.N{number}", "session"),
            ("", "none"),
        }


@pytest.mark.parametrize("hard", [0, 1, 4095, (1 << 32) + 1, (1 << 40) - 1])
def test_a_limit_that_is_not_one_of_ours_is_left_alone(hard: int) -> None:
    assert run(tagging.unusable, hard) == [0, None, 0, [hard, hard]]


def test_a_soft_limit_is_no_hindrance() -> None:
    first = TOP - STRIDES[0]
    assert run(tagging.low_soft_limit) == [first, [first, first]]


def test_no_limit_is_no_tag() -> None:
    assert run(tagging.untagged) == [None] * 4


def test_a_system_that_refuses_the_limit_costs_only_the_tag(child: str) -> None:
    events = events_of(run(tagging.refused_by_the_system, child))
    assert {each.attribution for each in events} <= {"spawned", "session", "none", ""}
    assert Counter(each.service for each in events if each.kind == "emptied") == {"org.test.Any": 1}


LIMITS = [RLIMIT_LOCKS, resource.RLIMIT_RSS]


@pytest.mark.parametrize("limit", LIMITS)
def test_both_ways_to_read_it_agree_on_our_own_users_processes(child: str, limit: int) -> None:
    value = run(tagging.readers, child, ["report"], limit)
    tag = value["value"]
    assert value["found"] == {"report": [[tag] * 3, [tag] * 3, [None] * 3]}


@needs_root
@pytest.mark.parametrize("limit", LIMITS)
def test_root_without_the_capability_reads_other_users_tags_from_the_file(
    child: str, limit: int
) -> None:
    value = run(tagging.readers, child, ["reportnobody"], limit)
    tag = value["value"]
    other = ["EPERM", tag, tag]
    assert value["found"] == {"reportnobody": [other, other, [None] * 3]}


@needs_root
def test_an_ordinary_user_reads_roots_tags_from_the_file() -> None:
    value = run(tagging.reading_root, becomes=NOBODY)
    assert value["found"] == ["EPERM", value["value"], value["value"]]


# -- which broker it comes from ------------------------------------------------------


def test_each_broker_draws_a_value_within_that_of_the_one_around_it() -> None:
    levels = run(tagging.instances, 3)
    outer = [1 << 62, 1 << 63]
    for drawn in levels[:3]:
        (low, high), (other_low, other_high) = (each["range"] for each in drawn)
        # Two beside each other have nothing in common.
        assert high <= other_low or other_high <= low
        for each in drawn:
            low, high = each["range"]
            assert each["limits"] == [high, high]
            assert outer[0] <= low < high < outer[1]
        # The next level was started by the second.
        outer = drawn[1]["range"]
    assert [each["range"] for each in levels[3]] == [None, None]


@pytest.mark.parametrize("hard", [0, 1 << 32, 1 << 61, 1 << 62, (1 << 62) + 1, (1 << 63) - 1])
def test_an_administrators_limit_is_left_alone(hard: int) -> None:
    assert run(tagging.drawn_under, hard, hard, False) == {"range": None, "limits": [hard, hard]}


def test_a_soft_limit_that_was_set_before_stays() -> None:
    found = run(tagging.drawn_under, 4096, INFINITY, False)
    assert found["limits"] == [4096, found["range"][1]]


def test_a_system_that_refuses_it_has_no_instances() -> None:
    found = run(tagging.drawn_under, INFINITY, INFINITY, True)
    assert found == {"range": None, "limits": [INFINITY, INFINITY]}


def test_the_kernel_holds_nobody_to_it() -> None:
    assert run(tagging.beyond_resident_set) > 32 << 20
