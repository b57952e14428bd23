"""Whose process it is, from each mark alone and from marks that disagree.

The tags are those that ``broker/process/tag.py`` gives out: each activation's is
lower than the one before by the stride, and a broker that runs as somebody's
service divides its own tag's range into narrower ones, down to three levels.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.attribution import Attribution, Evidence, Marks, Origin
from broker.process.tag import Tagger

TOP: Final = 1 << 62
STRIDES: Final = (1 << 32, 1 << 12, 1)
# How many activations a broker has on each level before its range is used up.
ROOM: Final = ((1 << 30) - 1, (1 << 20) - 1, (1 << 12) - 1)

NOTHING: Final = (None, Attribution.NONE)


def seen(
    tag: int | None = None, cgroup: str = "", session: int = 900, group: int = 901
) -> Evidence:
    return Evidence(tag, cgroup, session, group)


def tag_of(activation: int, level: int = 0, outer: int = TOP) -> int:
    """The tag of a broker's n-th activation (from 1); ``outer`` is what it runs under."""
    return outer - activation * STRIDES[level]


def marks_of(activations: int, level: int = 0, outer: int = TOP) -> Marks:
    """What a broker knows after this number of starts."""
    marks = Marks(STRIDES[level])
    for activation in range(1, activations + 1):
        marks.add(activation, tag=tag_of(activation, level, outer), cgroup=None)
    return marks


# -- tags ------------------------------------------------------------------------


def test_tags_here_are_those_that_brokers_give_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them, each of which runs as the second service of the one around it."""
    limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def set_limit(_which: int, value: tuple[int, int]) -> None:
        nonlocal limit
        limit = value

    monkeypatch.setattr("broker.process.tag.STARTS", 1)  # else the first is drawn at random
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limit)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    outer = TOP
    for level in range(3):
        tagger = Tagger()
        assert tagger.stride == STRIDES[level]
        assert tagger.advance() == tag_of(1, level, outer)
        assert tagger.advance() == tag_of(2, level, outer)
        outer = tag_of(2, level, outer)
    assert Tagger().stride == 0  # there is no room for a fourth


@pytest.mark.parametrize("level", range(3))
def test_tag_names_its_activation(level: int) -> None:
    marks = marks_of(5, level)
    for activation in range(1, 6):
        expected = (activation, Attribution.TAG)
        assert marks.attribute(seen(tag_of(activation, level))) == expected


@pytest.mark.parametrize("level", range(3))
def test_range_goes_from_the_tag_down_to_the_next_one_exclusive(level: int) -> None:
    marks = marks_of(3, level)
    lowest = tag_of(2, level) - STRIDES[level] + 1
    assert marks.attribute(seen(lowest)) == (2, Attribution.TAG)
    assert marks.attribute(seen(lowest - 1)) == (3, Attribution.TAG)
    assert marks.attribute(seen(tag_of(2, level) + 1)) == (1, Attribution.TAG)


@pytest.mark.parametrize("level", range(3))
def test_value_outside_of_every_range_is_nobodys(level: int) -> None:
    marks = marks_of(3, level)
    # Above is what the broker itself runs under; below, nothing was given out yet.
    assert marks.attribute(seen(TOP)) == NOTHING
    assert marks.attribute(seen(tag_of(1, level) + STRIDES[level])) == NOTHING
    assert marks.attribute(seen(tag_of(4, level))) == NOTHING
    assert marks.attribute(seen(0)) == NOTHING


@given(
    st.integers(1, ROOM[0]),
    st.integers(1, ROOM[1]),
    st.integers(1, ROOM[2]),
    st.integers(0, 2),
)
@example(1, 1, 1, 2)
@example(*ROOM, 2)
@example(1, ROOM[1], ROOM[2], 2)
def test_activation_of_a_nested_broker_is_also_that_of_each_broker_around_it(
    first: int, second: int, third: int, depth: int
) -> None:
    """A broker sees its own service in whatever runs below it, however deep."""
    path = (first, second, third)[: depth + 1]
    tags, outer = [], TOP
    for level, activation in enumerate(path):
        outer = tag_of(activation, level, outer)
        tags.append(outer)
    for level, activation in enumerate(path):
        marks = Marks(STRIDES[level])
        marks.add(activation, tag=tags[level], cgroup=None)
        # Its neighbours, which must not claim it.
        marks.add(-1, tag=tags[level] + STRIDES[level], cgroup=None)
        marks.add(-2, tag=tags[level] - STRIDES[level], cgroup=None)
        for below in tags[level:]:
            assert marks.attribute(seen(below)) == (activation, Attribution.TAG)


@given(st.integers(0, 2), st.integers(1, 40), st.integers(-5, 50), st.data())
def test_every_value_belongs_to_the_activation_in_whose_range_it_lies(
    level: int, activations: int, where: int, data: st.DataObject
) -> None:
    stride = STRIDES[level]
    value = tag_of(where, level) - data.draw(st.integers(0, stride - 1))
    expected = (where, Attribution.TAG) if 1 <= where <= activations else NOTHING
    assert marks_of(activations, level).attribute(seen(value)) == expected


@given(st.integers(0, TOP))
def test_broker_that_cannot_tag_reads_nothing_into_a_tag(value: int) -> None:
    marks = Marks()
    marks.add(1, tag=None, cgroup="/session/1")
    assert marks.attribute(seen(value)) == NOTHING


def test_process_without_a_tag_is_nobodys() -> None:
    assert marks_of(3).attribute(seen(None)) == NOTHING


# -- cgroups ---------------------------------------------------------------------


def with_cgroups() -> Marks:
    marks = Marks(STRIDES[0])
    marks.add(1, tag=tag_of(1), cgroup="/session/1")
    marks.add(2, tag=tag_of(2), cgroup="/session/2")
    marks.add(12, tag=tag_of(12), cgroup="/session/12")
    return marks


@pytest.mark.parametrize(
    ("path", "activation"),
    [
        ("/session/1", 1),
        ("/session/2", 2),
        ("/session/12", 12),
        # What a service makes below its own is its own.
        ("/session/1/worker", 1),
        ("/session/1/a/b/c/d", 1),
        ("/session/12/1", 12),
        # Names that only begin alike, or lie above or beside.
        ("/session/123", None),
        ("/session/1x/y", None),
        ("/session", None),
        ("/other/session/1", None),
        ("/", None),
        ("", None),
        ("session/1", None),
    ],
)
def test_cgroup_names_the_activation_that_it_lies_in(path: str, activation: int | None) -> None:
    expected = (activation, Attribution.CGROUP) if activation else NOTHING
    assert with_cgroups().attribute(seen(None, path)) == expected


def test_innermost_cgroup_counts() -> None:
    marks = Marks()
    marks.add(1, tag=None, cgroup="/a")
    marks.add(2, tag=None, cgroup="/a/b")
    assert marks.attribute(seen(None, "/a/b/c")) == (2, Attribution.CGROUP)
    assert marks.attribute(seen(None, "/a/c")) == (1, Attribution.CGROUP)


def test_cgroup_of_the_root_is_no_mark_of_anybody() -> None:
    marks = Marks()
    marks.add(1, tag=None, cgroup="/")
    assert marks.attribute(seen(None, "/a")) == NOTHING
    assert marks.attribute(seen(None, "/")) == NOTHING


# -- sessions and groups -----------------------------------------------------------


def with_leaders() -> Marks:
    marks = Marks()
    marks.add_leader(1, 10)
    marks.add_leader(2, 20)
    return marks


@pytest.mark.parametrize(
    ("session", "group", "activation"),
    [(10, 10, 1), (10, 55, 1), (55, 10, 1), (20, 10, 2), (20, 20, 2), (55, 56, None), (0, 0, None)],
)
def test_session_then_group_lead_to_the_spawned_process(
    session: int, group: int, activation: int | None
) -> None:
    expected = (activation, Attribution.SESSION) if activation else NOTHING
    assert with_leaders().attribute(seen(None, "", session, group)) == expected


# -- marks that disagree -------------------------------------------------------------


@dataclass
class Said:
    """What each mark says of a process; 0: nothing."""

    cgroup: int
    tag: int
    session: int


@given(st.builds(Said, *[st.integers(0, 3)] * 3))
def test_cgroup_goes_before_tag_before_session(said: Said) -> None:
    marks = Marks(STRIDES[0])
    for activation in (1, 2, 3):
        marks.add(activation, tag=tag_of(activation), cgroup=f"/session/{activation}")
        marks.add_leader(activation, 10 * activation)
    found = marks.attribute(
        seen(
            tag_of(said.tag) if said.tag else None,
            f"/session/{said.cgroup}/x" if said.cgroup else "/elsewhere",
            10 * said.session,
        )
    )
    if said.cgroup:
        assert found == (said.cgroup, Attribution.CGROUP)
    elif said.tag:
        assert found == (said.tag, Attribution.TAG)
    elif said.session:
        assert found == (said.session, Attribution.SESSION)
    else:
        assert found == NOTHING


def test_mark_that_leads_nowhere_does_not_hide_the_next_one() -> None:
    marks = with_cgroups()
    marks.add_leader(1, 10)
    unknown = tag_of(7)
    assert marks.attribute(seen(tag_of(2), "/elsewhere")) == (2, Attribution.TAG)
    assert marks.attribute(seen(unknown, "/elsewhere", 10)) == (1, Attribution.SESSION)


# -- forgetting ----------------------------------------------------------------------


def test_forgotten_activation_is_known_by_none_of_its_marks() -> None:
    marks = with_cgroups()
    marks.add_leader(1, 10)
    marks.add_leader(2, 20)
    marks.forget(1)
    assert marks.attribute(seen(tag_of(1))) == NOTHING
    assert marks.attribute(seen(None, "/session/1/x")) == NOTHING
    assert marks.attribute(seen(None, "", 10, 10)) == NOTHING


def test_others_are_still_known() -> None:
    marks = with_cgroups()
    marks.add_leader(2, 20)
    marks.forget(1)
    assert marks.attribute(seen(tag_of(2))) == (2, Attribution.TAG)
    assert marks.attribute(seen(None, "/session/2")) == (2, Attribution.CGROUP)
    assert marks.attribute(seen(None, "", 20)) == (2, Attribution.SESSION)


def test_pid_of_a_forgotten_leader_may_lead_another_activation() -> None:
    marks = with_leaders()
    marks.forget(1)
    marks.add_leader(3, 10)
    assert marks.attribute(seen(None, "", 10)) == (3, Attribution.SESSION)


def test_forgetting_what_was_never_marked_is_nothing() -> None:
    marks = with_cgroups()
    marks.forget(99)
    assert marks.attribute(seen(tag_of(1))) == (1, Attribution.TAG)


@given(st.lists(st.integers(1, 12), unique=True), st.integers(1, 12))
def test_forgetting_some_leaves_exactly_the_others(forgotten: list[int], activation: int) -> None:
    marks = marks_of(12)
    for each in forgotten:
        marks.forget(each)
    expected = NOTHING if activation in forgotten else (activation, Attribution.TAG)
    assert marks.attribute(seen(tag_of(activation))) == expected


class Marking(RuleBasedStateMachine):
    """Activations come and go, in cgroups and with PIDs that come again."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Marks(STRIDES[0])
        self.newest = 0
        # What each has: its cgroup and the PID of its first process, or none.
        self.known: dict[int, tuple[str, int]] = {}

    @rule(cgroup=st.sampled_from(["", "/a", "/a/b", "/c"]), pid=st.integers(0, 3))
    def start(self, cgroup: str, pid: int) -> None:
        """A mark is given out again only when nobody bears it any more."""
        self.newest += 1
        taken = [*self.known.values()]
        cgroup = "" if cgroup in {each for each, _ in taken} else cgroup
        pid = 0 if pid in {each for _, each in taken} else pid
        self.known[self.newest] = (cgroup, pid)
        self.marks.add(self.newest, tag=tag_of(self.newest), cgroup=cgroup or None)
        if pid:
            self.marks.add_leader(self.newest, pid)

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0, 5))
    def end(self, which: int) -> None:
        """The last process of one of them has ended."""
        activation = list(self.known)[which % len(self.known)]
        del self.known[activation]
        self.marks.forget(activation)

    @invariant()
    def each_mark_leads_to_who_has_it(self) -> None:
        """And to no activation when it is over, whatever had the mark before."""
        for activation in range(1, self.newest + 1):
            expected = (activation, Attribution.TAG) if activation in self.known else NOTHING
            assert self.marks.attribute(seen(tag_of(activation))) == expected
        cgroups = {cgroup: each for each, (cgroup, _) in self.known.items() if cgroup}
        for path in ("/a", "/a/b", "/c"):
            inner = cgroups.get(path)
            outer = cgroups.get("/a") if path == "/a/b" else None
            found, _ = self.marks.attribute(seen(None, f"{path}/x"))
            assert found == (inner or outer)
        pids = {pid: each for each, (_, pid) in self.known.items() if pid}
        for pid in (1, 2, 3):
            assert self.marks.attribute(seen(None, "", 99, pid))[0] == pids.get(pid)


TestMarking = Marking.TestCase
TestMarking.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_words_are_those_of_the_interface() -> None:
    assert [str(each) for each in Attribution] == ["spawned", "cgroup", "tag", "session", "none"]
    assert [str(each) for each in Origin] == ["spawned", "adopted"]
