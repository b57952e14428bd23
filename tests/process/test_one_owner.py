"""Only the modules that own processes start them or wait for them.

A second waiter beside ``waitid(P_ALL)`` is told lies: ``Popen.wait`` returns 0 and
asyncio's watchers 255 for a child that has been reaped. So there are none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# background.py makes the process that becomes the broker, forked.py those that may hang.
OWNERS = {
    "broker/process/background.py",
    "broker/process/forked.py",
    "broker/process/reaper.py",
    "broker/process/spawn.py",
}

# As a program: dbus-activator, and who made a process in it.
WATCHED = f"""
import atexit, json, sys
sys.path.insert(0, {str(ROOT)!r})
found = set()
def watch(event, arguments):
    if event in {{"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
                  "pty.spawn", "subprocess.Popen"}}:
        found.add((event, sys._getframe(1).f_code.co_filename))
sys.addaudithook(watch)
atexit.register(lambda: print(json.dumps(sorted(found))))
from broker.cli import main
main()
"""


def complaints(path: str, source: str) -> list[str]:
    """What the linter calls banned in a file of ours."""
    ruff = str(Path(sys.executable).parent / "ruff")
    options = ["--select=TID251", "--no-cache", "--output-format=json"]
    done = subprocess.run(
        [ruff, "check", *options, f"--stdin-filename={path}", "-"],
        check=False,
        cwd=ROOT,
        text=True,
        input=source,
        capture_output=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return [each["message"] for each in json.loads(done.stdout)]


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\n",
        "from subprocess import run\n",
        "import multiprocessing\n",
        "import asyncio\nasyncio.create_subprocess_exec\n",
        "from asyncio import create_subprocess_shell\n",
        "from asyncio import subprocess\n",
        "from concurrent.futures import ProcessPoolExecutor\n",
        "import os\nos.fork()\n",
        "import os\nos.posix_spawn\n",
        "import os\nos.waitpid(-1, 0)\n",
        "from os import wait4\n",
    ],
)
def test_the_linter_refuses_a_second_owner_of_children(source: str) -> None:
    assert len(complaints("broker/daemon.py", source)) == 1
    assert complaints("tests/process/harness.py", source) == []


def test_the_exceptions_are_those_that_the_linter_would_report() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("broker/**/*.py")
        if complaints("broker/daemon.py", path.read_text())
    }
    # The demo's services and what it shows before it starts a broker are no part of one;
    # nor are pytest and the services of its tests.
    others = {each for each in found if "demo" in each or each.startswith("broker/testing/")}
    assert found - others - {"broker/process/guardian.py"} == OWNERS


def test_a_session_makes_processes_in_one_place() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "run", "--", "true"],
        check=False,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    found = {tuple(each) for each in json.loads(done.stdout)}
    places = {str(Path(path).relative_to(ROOT)) for _, path in found}
    assert places - {"broker/process/guardian.py"} == {"broker/process/spawn.py"}
