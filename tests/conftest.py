"""What holds for all tests.

The tests that need a bus know two engines and two users. Each of them runs on two of the
four pairs, in turns, so that every file meets all four; ``--long`` has each run on all
four, and runs those that are marked ``long`` as well. Marked ``square`` are those of
processes, privilege and policy: they run on all four always.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_KEPT: Final = {"PATH", "HOME", "PYTEST_CURRENT_TEST"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    help_text = "run what is marked long, too, and all of it on both engines and as both users"
    parser.addoption("--long", action="store_true", help=help_text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs with ``--long`` only; a test that is asked for by name never."""
    if config.getoption("long") or any("::" in each for each in config.args):
        return
    left = {item for item in items if item.get_closest_marker("long")}
    if os.geteuid() == 0:  # else there is one user, and two pairs
        left |= _other_pairs(item for item in items if item not in left)
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]


def _other_pairs(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Of the tests that are there on all four pairs, the two whose turn it is not."""
    cases: dict[Path, dict[tuple[str, ...], dict[bool, list[pytest.Item]]]] = {}
    for item in items:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        if {"engine", "user"} <= parameters.keys() and not item.get_closest_marker("square"):
            first = (parameters.pop("engine") == "dbus-broker") == (
                parameters.pop("user") == "self"
            )
            case = (item.name.partition("[")[0], *map(repr, parameters.values()))
            pairs = cases.setdefault(item.path, {}).setdefault(case, {True: [], False: []})
            pairs[first].append(item)
    found: set[pytest.Item] = set()
    for in_file in cases.values():
        whole = [pairs for pairs in in_file.values() if [*map(len, pairs.values())] == [2, 2]]
        for number, pairs in enumerate(whole if len(whole) > 1 else ()):
            found |= set(pairs[number % 2 == 1])
    return found


@pytest.fixture(scope="session", autouse=True)
def _as_on_a_fresh_machine() -> None:
    """Nothing of the host's session, of its user's taste, or of the caller's own pytest.

    A running bus, XDG_* directories, colours, a locale, PYTHONPATH, PYTEST_ADDOPTS, a
    umask that keeps others from reading what is made for them.
    """
    for name in os.environ.keys() - _KEPT:
        if not name.startswith("PYTEST_XDIST_"):
            del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    os.umask(0o022)


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> None:
    """Programs get their signals also where the tests run under nohup, or in the background.

    What is ignored stays so over exec, what is handled does not.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
