"""A full table of descriptors hides no process."""

from __future__ import annotations

from tests.process.harness import run
from tests.process.scenarios import shortage


def test_an_orphan_is_found_and_all_are_signalled_with_a_full_table(child: str) -> None:
    found = run(shortage.full_table, child)
    ((service, attribution),) = found["live"]
    assert service == "org.test.Daemon"
    assert attribution in ("tag", "cgroup")
    assert found["emptied"] == 0
    assert found["signalled"] == [1, 2]


def test_places_are_lent_and_taken_back() -> None:
    assert run(shortage.lent) == [[[True, True]] * 2, True]
