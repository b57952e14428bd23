"""The settings of the scenarios, and the program that they start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import others
from tests.process.harness import NOBODY, Setting, can_make_cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
USERS = [None, NOBODY] if os.geteuid() == 0 else [None]
MARKS = {"cgroup": (True, False), "tag": (False, True), "neither": (False, False)}


@pytest.fixture(scope="session", autouse=True)
def _sources() -> Iterator[None]:
    yield
    others.remove_sources()


@pytest.fixture(scope="session")
def child() -> Iterator[str]:
    """``child.c``, compiled where every user can execute it."""
    directory = Path(tempfile.mkdtemp(prefix="dat-child-", dir="/tmp"))
    directory.chmod(0o755)
    target = directory / "child"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, "-o", target, HERE / "child.c"], check=True)
    yield str(target)
    shutil.rmtree(directory)


def _setting(user: int | None, marks: str) -> Setting:
    cgroup, tag = MARKS[marks]
    if cgroup and not can_make_cgroups():
        pytest.skip("this user may make no cgroups here")
    return Setting(user, cgroup, tag)


@pytest.fixture(scope="session", params=USERS, ids=lambda user: str(user or "self"))
def user(request: pytest.FixtureRequest) -> int | None:
    """The user of the tests, and an ordinary user beside root."""
    found: int | None = request.param
    return found


@pytest.fixture(scope="session", params=MARKS)
def setting(request: pytest.FixtureRequest, user: int | None) -> Setting:
    """Every user with every set of marks."""
    return _setting(user, request.param)


@pytest.fixture(scope="session", params=MARKS)
def own_setting(request: pytest.FixtureRequest) -> Setting:
    """The user of the tests with every set of marks."""
    return _setting(None, request.param)


@pytest.fixture(scope="session", params=["cgroup", "tag"])
def marked(request: pytest.FixtureRequest) -> Setting:
    """The user of the tests, with either mark to go by."""
    return _setting(None, request.param)


@pytest.fixture(scope="session")
def in_cgroups() -> Setting:
    """The user of the tests, where cgroups can be made."""
    return _setting(None, "cgroup")
