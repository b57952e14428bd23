"""Every process becomes the broker's child, and is reported with its own service."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from broker.core.exits import CLD_EXITED, CLD_KILLED
from tests.process.harness import TAG_ONLY, Setting, attempt, events_of, run
from tests.process.scenarios import ancestry
from tests.process.scenarios.ancestry import STYLES, WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from tests.process.harness import Event
    from tests.process.scenarios.ancestry import Style, Wrapper

# Of each style, in each setting.
REPETITIONS = 8
NEITHER = Setting(tag=False)


@dataclass(frozen=True, slots=True)
class DBusError:
    """What was said of services of every style.

    Attributes:
        services: the style of each, by number.
    """

    services: Mapping[int, str]
    events: Sequence[Event]

    def problems(self, style: str, setting: Setting) -> list[str]:
        """What was not said, or is not true, of the services of a style."""
        found = []
        for number in [number for number, name in self.services.items() if name == style]:
            found += self._problems(number, STYLES[style].goers, setting)
        return found

    def _problems(self, number: int, goers: int, setting: Setting) -> list[str]:
        name = f"org.test.N{number}"
        exits = [each for each in self.events if each.kind == "exited"]
        own = [each for each in exits if ancestry.key(each) == number]
        lost = set() if STYLES[self.services[number]].tag else {number}
        found = [f"wrong: {each}" for each in own if not _is_right(each, name, setting, lost)]
        found += [
            f"not from {name}: {each}"
            for each in exits
            if each.service == name and ancestry.key(each) != number
        ]
        origins = sorted(each.origin for each in own)
        if origins != ["adopted"] * goers + ["spawned"]:
            found.append(f"{name}: not all were seen: {origins}")
        emptied = [
            index
            for index, each in enumerate(self.events)
            if (each.kind, each.service) == ("emptied", name)
        ]
        last = max(
            index
            for index, each in enumerate(self.events)
            if (each.kind, each.service) == ("exited", name)
        )
        if len(emptied) != 1 or emptied[0] < last:
            found.append(f"{name}: emptied at {emptied}, the last exit was at {last}")
        return found


def _is_right(
    event: Event, name: str, setting: Setting, lost: AbstractSet[int] = frozenset()
) -> bool:
    """Whether it is told as it must be; ``lost``: exit statuses of those without their tag."""
    if event.code != CLD_EXITED:
        return False
    how = (event.service, event.attribution)
    if event.origin == "spawned":
        return how == (name, "spawned")
    if setting.cgroup:
        return how == (name, "cgroup")
    if setting.tag and event.status not in lost:
        return how == (name, "tag")
    # Nothing may be said then, but nothing wrong.
    return how in {(name, "session"), ("", "none")}


def possible(setting: Setting, kinds: Mapping[str, Style | Wrapper]) -> list[str]:
    """Those that the user can do."""
    root = setting.user is None and os.geteuid() == 0
    return [name for name, kind in kinds.items() if root or not kind.root]


def observe(child: str, setting: Setting, life: str, *, switched_off: str = "") -> DBusError:
    """Run services of every style that the user can do."""
    arguments = (child, possible(setting, STYLES), life, REPETITIONS, switched_off)
    if switched_off != "subreaper":
        value = run(ancestry.styles, *arguments, setting=setting)
    else:
        # The orphans are the guard's then, which says so.
        report = attempt(ancestry.styles, *arguments, setting=setting)
        assert not report.error, report.error
        value = report.value
    services = {int(number): style for number, style in value["services"].items()}
    return DBusError(services, events_of(value["events"]))


@pytest.fixture(scope="module", params=["wait", "now"], ids=["living", "instant"])
def life(request: pytest.FixtureRequest) -> str:
    """Whether the process that stays is found alive, or as a zombie if nobody is faster."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def outcome(child: str, setting: Setting, life: str) -> DBusError:
    """What was said of services of every style, in each setting."""
    return observe(child, setting, life)


@pytest.mark.parametrize("style", STYLES)
def test_every_process_is_reaped_once_and_is_its_own_services(
    style: str, outcome: DBusError, setting: Setting
) -> None:
    if style not in outcome.services.values():
        # Only root can become somebody else; that is no case for others.
        assert STYLES[style].root
        assert setting.user is not None or os.geteuid() != 0
        return
    assert outcome.problems(style, setting) == []


def test_a_living_orphan_is_adopted_alive(child: str, marked: Setting) -> None:
    outcome = observe(child, marked, "wait")
    exits = [each for each in outcome.events if each.kind == "exited"]
    stayed = {each.pid for each in exits if each.status < 100}
    # A zombie has no command line.
    alive = {each.pid for each in outcome.events if each.command[:1] != ["[child]"]}
    assert len(stayed) == len(outcome.services)
    assert alive >= stayed


def test_without_subreaper_the_orphans_are_missed(child: str) -> None:
    """The tests above are no tests unless they fail then."""
    outcome = observe(child, TAG_ONLY, "now", switched_off="subreaper")
    assert outcome.problems("plain", TAG_ONLY) == []
    for style in set(outcome.services.values()) - {"plain"}:
        assert outcome.problems(style, TAG_ONLY), style


@pytest.mark.parametrize("claim", [TAG_ONLY, Setting(cgroup=True)], ids=str)
def test_without_marks_the_orphans_are_not_known(child: str, claim: Setting) -> None:
    """The same for the marks."""
    outcome = observe(child, NEITHER, "now")
    assert outcome.problems("plain", claim) == []
    for style in set(outcome.services.values()) - {"plain"}:
        assert outcome.problems(style, claim), style


def test_a_tag_in_the_soft_limit_alone_would_be_lost(child: str) -> None:
    """And the same for the hard limit, which those that raise every limit cannot raise."""
    outcome = observe(child, TAG_ONLY, "now", switched_off="hard limit")
    found = {style for style in set(outcome.services.values()) if outcome.problems(style, TAG_ONLY)}
    assert found == {"limits", "hard"}


def test_daemons_started_by_other_programs_are_their_services(child: str, setting: Setting) -> None:
    chosen = [name for name in possible(setting, WRAPPERS) if shutil.which(WRAPPERS[name].argv[0])]
    events = events_of(run(ancestry.wrapped, child, chosen, setting=setting))
    exits = [each for each in events if each.kind == "exited"]
    for number, name in enumerate(chosen, 1):
        # All that it started of its own, however many: some fork, some only execute.
        own = [each for each in exits if each.status in (number, number + 100)]
        assert [each.origin for each in own if each.status == number] == ["adopted"], name
        wrong = [each for each in own if not _is_right(each, f"org.test.N{number}", setting)]
        assert wrong == [], name
    known = {*range(1, len(chosen) + 1), *range(101, len(chosen) + 101)}
    others = [each for each in exits if each.status not in known]
    assert {each.status for each in others} <= {0}, others
    if setting.cgroup or setting.tag:
        assert [each for each in exits if not each.service] == []


@pytest.mark.parametrize("living", [True, False], ids=["living", "dead"])
def test_orphans_that_a_service_gathered_come_all_at_once(
    child: str, living: bool, setting: Setting
) -> None:
    value = run(ancestry.gathered, child, living, setting=setting)
    events = events_of(value["events"])
    # Before, they are found below it, but are no children of ours.
    assert value["trees"] == [9, 9]
    assert value["unseen"] is True
    exits = [each for each in events if each.kind == "exited"]
    assert [each.code for each in exits if each.origin == "spawned"] == [CLD_KILLED] * 2
    orphans = [each for each in exits if each.origin == "adopted"]
    assert Counter(each.status for each in orphans) == {1: 8, 2: 8}
    for each in orphans:
        assert _is_right(each, f"org.test.N{each.status}", setting), each


@pytest.mark.parametrize("tag", [True, False], ids=["tag", "neither"])
def test_an_orphan_in_its_services_session_is_known_by_that(tag: bool) -> None:
    events = events_of(run(ancestry.background_in_shell, setting=Setting(tag=tag)))
    (orphan,) = [each for each in events if each.origin == "adopted" and each.kind == "exited"]
    assert orphan.service == "org.test.Shell"
    assert orphan.attribution == ("tag" if tag else "session")
    assert [each.kind for each in events][-1] == "emptied"


def test_subreaper_is_set_and_read_back() -> None:
    assert run(ancestry.subreaper_attribute) == [False, True, False]


def test_an_activation_is_not_over_while_a_daemon_of_it_lives(child: str, marked: Setting) -> None:
    value = run(ancestry.daemon_left, child, setting=marked)
    events = events_of(value["events"])
    assert value["live"] == [["org.test.Daemon", True]]
    assert "emptied" not in {each.kind for each in events[: value["before"]]}
    assert [each.kind for each in events[-2:]] == ["exited", "emptied"]
    assert [each.status for each in events if each.kind == "exited"] == [0, 105, 105, 5]


def test_each_activation_is_emptied_once_after_its_exits(child: str, marked: Setting) -> None:
    events = events_of(run(ancestry.emptied, child, setting=marked))
    activations = {each.activation for each in events}
    assert len(activations) == 40
    for activation in activations:
        own = [each for each in events if each.activation == activation]
        kinds = Counter(each.kind for each in own)
        assert kinds["emptied"] == 1
        assert kinds["started"] == kinds["exited"]
        assert own[-1].kind == "emptied"
    assert len([each for each in events if each.kind == "exited"]) == 10 * (1 + 3 + 2 + 2)


def test_processes_of_no_service_are_told_with_an_empty_name(child: str, setting: Setting) -> None:
    events = events_of(run(ancestry.stranger_beside_services, child, setting=setting))
    for each in events:
        if each.kind == "exited":
            assert each.service == ("org.test.Other" if each.status == 1 else ""), each


def test_each_activation_has_marks_of_its_own(child: str, marked: Setting) -> None:
    events = events_of(run(ancestry.after_emptied, child, setting=marked))
    exits = Counter(each.activation for each in events if each.kind == "exited")
    assert sorted(exits.values()) == [3, 3]


def test_the_service_of_any_process_is_known(child: str, setting: Setting) -> None:
    value = run(ancestry.service_of, child, setting=setting)
    assert sorted(value["services"]) == [""] * 3 + ["org.test.Tree"] * 7
    # Children, and children's children's children.
    assert sorted(value["depths"]) == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert value["strangers"] == [None, None, None]
    assert value["gone"] is None


def test_a_killed_brokers_orphans_belong_to_the_service_that_it_was(
    child: str, marked: Setting
) -> None:
    value = run(ancestry.nested, child, marked.cgroup, setting=marked)
    how = "cgroup" if marked.cgroup else "tag"
    assert value["found"] == [["org.test.Inner", "adopted", how]] * 3
    events = events_of(value["events"])
    exits = [each for each in events[value["before"] :] if each.service == "org.test.Inner"]
    assert [(each.code, each.status) for each in exits if each.kind == "exited"] == [
        (CLD_KILLED, signal.SIGKILL),
        *[(CLD_EXITED, 9)] * 3,
    ]
    assert exits[-1].kind == "emptied"
