"""What stands in a suite for the message bus: dbus-daemon itself, and ours by its name."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.foreign.suites import Program

BARE: Final = "bare"
# What stands among a program's cases for its exit status.
END: Final = "(its end)"
ENGINES: Final = ("dbus-broker", "dbus-daemon")
# In seconds, for one program, and for one case.
_TIMEOUT: Final = 120.0
_CASE_TIMEOUT: Final = 30.0
# Automake's status of a test that cannot be run here.
_SKIPPED: Final = 77
_LINE: Final = re.compile(r"(not )?ok\b *\d* *-? *(.*?)(?: *# *(SKIP|TODO)\b.*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program: of each of its cases "ok", "failed" or "skipped"."""

    cases: dict[str, str]
    output: str


class Bus:
    """A PATH in which "dbus-daemon" is the one that is meant.

    Args:
        kind: BARE, or the engine of ours.
        directory: an empty one, for links.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._daemon = Path("/usr/bin/dbus-daemon")
        self._path = "/usr/bin:/bin"
        if kind == BARE:
            return
        self._daemon = directory / "link" / "dbus-daemon"
        self._daemon.parent.mkdir()
        self._daemon.symlink_to(Path(sys.executable).parent / "dbus-activator")
        self._path = f"{self._daemon.parent}:/usr/bin:/bin"
        if kind == "dbus-daemon":
            # The engine is dbus-broker where that is found: all programs but this one.
            programs = directory / "bin"
            programs.mkdir()
            for each in Path("/usr/bin").iterdir():
                if each.name != "dbus-broker":
                    (programs / each.name).symlink_to(each)
            self._path = f"{self._daemon.parent}:{programs}"

    def run(self, program: Program, cases: Iterable[str] = ()) -> Outcome:
        """Run a program to its end, and end what it leaves behind.

        A program of GLib's ends with its first failure: those of ``cases`` of which it has said
        nothing are run alone.
        """
        outcome = self._run(program)
        for case in [each for each in cases if each.startswith("/") and each not in outcome.cases]:
            alone = self._run(replace(program, argv=(*program.argv, "-p", case)), _CASE_TIMEOUT)
            outcome.cases[case] = alone.cases.get(case, "failed")
            outcome.cases[END] = "ok"
            outcome = Outcome(outcome.cases, f"{outcome.output}\n\n{case}:\n{alone.output}")
        return outcome

    def _run(self, program: Program, timeout: float = _TIMEOUT) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="datf-", dir="/tmp") as home:
            environ = {
                "PATH": self._path,
                "HOME": home,
                "XDG_RUNTIME_DIR": home,
                "LANG": "C.UTF-8",
                "DBUS_TEST_DAEMON": str(self._daemon),
                "G_TEST_DBUS_DAEMON": str(self._daemon),
            }
            with tempfile.TemporaryFile("w+", errors="replace") as output:
                process = subprocess.Popen(
                    program.argv,
                    cwd=program.directory or home,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                try:
                    status = process.wait(timeout)
                except subprocess.TimeoutExpired:
                    status = -1
                    process.kill()
                    process.wait()
                _end_children()
                output.seek(0)
                said = output.read()
        cases = dict(filter(None, map(_case, said.splitlines())))
        cases[END] = {0: "ok", _SKIPPED: "skipped"}.get(status, "failed")
        return Outcome(cases, f"{said}\nstatus {status}")


def _case(line: str) -> tuple[str, str] | None:
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    failed, name, directive = found.groups()
    if directive:
        return name, "skipped"
    return name, "failed" if failed else "ok"


def _end_children() -> None:
    """End all that a program has left: we are its subreaper."""
    while children := procfs.children_of(os.getpid()):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
