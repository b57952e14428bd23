"""Files that may hang are known before they are touched; a child that hangs is like any other."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from broker.core.exits import CLD_KILLED
from tests.process.harness import Setting, events_of, run
from tests.process.scenarios import hanging

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def test_what_waits_for_nobody_is_told_from_what_may_hang(tmp_path: Path) -> None:
    found = run(hanging.looks, str(tmp_path))
    assert {name for name, local in found.items() if not local} == {
        "program",
        "the mount itself",
        "script of it",
        "script of a script of it",
        "interpreter of it",
        "link",
        "link to a link",
        "linked",
        "mounted",
        "away",
        "cold: to the program",
        "cold: directory",
    }
    assert {name for name, local in found.items() if local} == {
        "script",
        "missing",
        "below a file",
        "link that is no more",
        "link to a script",
        "link to itself",
        "no path",
        "plain",
        "none",
        "cold: script",
        "cold: to a script",
        "cold: to nowhere",
        "cold: none",
        "when it has gone",
    }


def test_marks_are_exact_while_a_program_hangs(child: str, marked: Setting, tmp_path: Path) -> None:
    found = run(hanging.marks, child, str(tmp_path), setting=marked)
    mark = "cgroup" if marked.cgroup else "tag"
    assert found["whose"] == [found["activation"], mark]
    assert found["parent"] is True
    assert (found["starting"], found["starting at the end"]) == (True, False)
    # Nothing of the broker's but the pipe in which it would say why it cannot be executed.
    assert (found["files"], found["open"]) == (["0", "1", "2"], 4)
    events = events_of(found["events"])
    adopted = [each for each in events if each.origin == "adopted" and each.kind == "started"]
    assert {each.attribution for each in adopted} == {mark}
    for each in events:
        if each.kind == "exited" and each.service != "org.test.Hung":
            assert each.service == f"org.test.Daemon{each.status % 10}"
    (end,) = [each for each in events if each.kind == "exited" and "Hung" in each.service]
    assert (end.code, end.status) == (CLD_KILLED, signal.SIGTERM)
