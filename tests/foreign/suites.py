"""The suites of others: which programs they have, and how each is run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.foreign import cases

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALLED: Final = Path("/usr/share/installed-tests")
# python-dbusmock's tests need D-Bus bindings, which are the system's.
_PYTHON: Final = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Program:
    """One program, whose output is TAP ("Test Anything Protocol")."""

    name: str
    argv: tuple[str, ...]
    directory: Path | None = None


def libdbus() -> Iterator[Program]:
    """Those of libdbus, most of which are about dbus-daemon."""
    yield from _installed("libdbus", "dbus", "*.test")


def glib() -> Iterator[Program]:
    """GLib's tests of D-Bus, most of which start a bus by GTestDBus."""
    yield from _installed("glib", "glib", "*dbus*.test")


def _installed(suite: str, package: str, pattern: str) -> Iterator[Program]:
    """What gnome-desktop-testing-runner would run: the lines Exec of installed tests."""
    for file in sorted((_INSTALLED / package).glob(pattern)):
        lines = file.read_text().splitlines()
        (command,) = (line.removeprefix("Exec=") for line in lines if line.startswith("Exec="))
        yield Program(f"{suite}/{file.stem}", tuple(shlex.split(command)))


def dbusmock(directory: Path) -> Iterator[Program]:
    """python-dbusmock's own, from its unpacked source."""
    for file in sorted((directory / "tests").glob("test_*.py")):
        module = f"tests.{file.stem}"
        argv = (_PYTHON, str(Path(cases.__file__).resolve()), module)
        yield Program(f"dbusmock/{file.stem}", argv, directory)
