"""Engines, users and places for the tests against real buses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration import buses
from tests.integration.buses import Installation, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
USERS = ["self", "nobody"] if os.geteuid() == 0 else ["self"]


@pytest.fixture(scope="session")
def c_service() -> Iterator[Path]:
    """The C service, compiled where every user can execute it."""
    directory = Path(tempfile.mkdtemp(prefix="dat-bin-", dir="/tmp"))
    directory.chmod(0o755)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "dbus-1"], check=True, text=True, capture_output=True
    ).stdout.split()
    target = directory / "service"
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Werror", "-o", target, HERE / "service.c", *flags], check=True
    )
    yield target
    buses.remove(directory)


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
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build: list[str | Path] = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        wheels,
        ROOT,
    ]
    subprocess.run(build, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = wheels.glob("dbus_activator-*.whl")
    library = directory / "lib"
    subprocess.run([*pip, "install", "--no-deps", "--target", library, wheel], check=True)
    import click
    import dbus_next

    for package in (click, dbus_next):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, library / source.name)
    python = os.path.realpath(sys.executable)
    for script, module in (
        ("dbus-activator", "broker.cli"),
        ("dbus-activator-demo", "broker.demo"),
    ):
        path = directory / script
        path.write_text(
            f"#!{python}\nimport sys\nsys.path.insert(0, {str(library)!r})\n"
            f"from {module} import main\nmain()\n"
        )
        path.chmod(0o755)
    yield Installation(directory / "dbus-activator", buses.NOBODY)
    buses.remove(directory)


@pytest.fixture(params=["dbus-broker", "dbus-daemon"])
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines; none may be missing."""
    name: str = request.param
    return name


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> Installation:
    """Whoever runs the tests, and an ordinary user beside root."""
    name = "ordinary" if request.param == "nobody" else "installation"
    found: Installation = request.getfixturevalue(name)
    return found


@pytest.fixture
def place(engine: str, user: Installation, c_service: Path) -> Iterator[Place]:
    """An empty directory for one test's descriptors."""
    path = buses.short_directory(user)
    yield Place(path, user, c_service, engine)
    buses.remove(path)
