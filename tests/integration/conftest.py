"""Engines, users and places for the tests against real buses."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import others
from tests.integration import buses
from tests.integration.buses import Installation, Place
from tests.integration.pairs import ENGINES, USERS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def c_service() -> Iterator[Path]:
    """The C service, compiled where every user can execute it."""
    directory = Path(tempfile.mkdtemp(prefix="dat-bin-", dir="/tmp"))
    directory.chmod(0o755)
    yield buses.build_service(directory)
    buses.remove(directory)


@pytest.fixture(scope="session")
def storm_maker(c_service: Path) -> Path:
    """``storm.c``, compiled beside the service."""
    target = c_service.parent / "storm"
    subprocess.run(
        [
            "cc",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            target,
            Path(__file__).with_name("storm.c"),
        ],
        check=True,
    )
    return target


@pytest.fixture(scope="session")
def refuse(c_service: Path) -> Path:
    """``refuse.c``, compiled beside the service."""
    target = c_service.parent / "refuse"
    source = Path(__file__).with_name("refuse.c")
    flags = ["-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", target, source], check=True)
    return target


@pytest.fixture
def storm_program(storm_maker: Path) -> Iterator[Path]:
    """``storm_maker``, for one test at a time: two storms would use up the PIDs."""
    with open(Path(__file__).with_name("storm.c"), "rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield storm_maker


@pytest.fixture(scope="session")
def installation() -> Installation:
    """The command that these tests were installed with."""
    return Installation(Path(sys.executable).parent / "dbus-activator")


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel, installed where uid 65534 can read it: our own place may be private."""
    directory = Path(tempfile.mkdtemp(prefix="dat-wheel-", dir="/tmp"))
    directory.chmod(0o755)
    wheels = tmp_path_factory.mktemp("wheels")
    venv = directory / "venv"
    python = others.python(buses.NOBODY)
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels = tmp_path_factory.mktemp("wheels")
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(ROOT)]
    subprocess.run([*pip, *build], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = wheels.glob("dbus_activator-*.whl")
    install = [f"--python={venv}/bin/python", "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    (library,) = venv.glob("lib/python*/site-packages")
    for package in ("click", "dbus_next"):
        source = importlib.util.find_spec(package)
        assert source is not None
        assert source.origin is not None
        shutil.copytree(Path(source.origin).parent, library / package)
    yield Installation(venv / "bin" / "dbus-activator", buses.NOBODY)
    buses.remove(directory)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines; none may be missing."""
    name: str = request.param
    return name


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> Installation:
    """The user of the tests, and an ordinary user beside root."""
    name = "ordinary" if request.param == "nobody" else "installation"
    found: Installation = request.getfixturevalue(name)
    return found


@pytest.fixture
def place(engine: str, user: Installation, c_service: Path) -> Iterator[Place]:
    """An empty directory for one test's descriptors."""
    path = buses.short_directory(user)
    yield Place(path, user, c_service, engine)
    buses.end_started()
    buses.remove(path)


@pytest.fixture
def link(place: Place) -> Path:
    """dbus-activator by dbus-daemon's name, in a directory of its own."""
    path = place.path / "link" / "dbus-daemon"
    path.parent.mkdir()
    path.symlink_to(place.user.command)
    return path
