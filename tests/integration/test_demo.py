"""What a newcomer runs first, and ``ps``; from a checkout and from the wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from broker.process import procfs
from tests.integration.pairs import USERS
from tests.others import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Place

NAME = "org.activation.Test.One"


def test_the_tour(place: Place) -> None:
    began = time.monotonic()
    done = place.user.run(
        [place.user.command, "demo", f"--engine={place.engine}"], env=place.environ()
    )
    assert time.monotonic() - began < 10
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert f"The bus: {place.engine} " in said
    assert said.count("-> 'hello'") == 2
    # Without the broker the daemon has another parent than with it.
    lost = re.search(r"PPID  COMMAND\n +\d+ +(\d+)", said)
    kept = re.search(r"^ +(\d+) +(\d+)  -  .*\(adopted\)$", said, re.MULTILINE)
    broker = re.search(r"the broker is PID (\d+)", said)
    assert lost
    assert kept
    assert broker
    assert kept[2] == broker[1] != lost[1]
    assert f"ProcessExited(pid={kept[1]}, code=2, status=11)" in said
    assert "ActiveState=failed, ended by SIGSEGV" in said
    assert "ExecMainCode=1, ExecMainStatus=3" in said
    assert said.endswith("processes left behind: 0\n")


@pytest.mark.parametrize("engine", ["dbus-broker"])
@pytest.mark.parametrize("user", USERS[-1:], indirect=True)
@pytest.mark.parametrize("installed", [True, False])
def test_the_tour_by_whichever_python_runs_it(place: Place, installed: bool) -> None:
    """``python -m broker`` where the environment is not active, and where there is none."""
    python = place.user.command.parent / "python"
    environ = place.environ()
    if not installed:
        (library,) = place.user.command.parent.parent.glob("lib/python*/site-packages")
        environ["PYTHONPATH"] = f"{library}:{ROOT}"
        python = python.resolve()
    done = place.user.run([python, "-m", "broker", "demo"], env=environ, cwd="/")
    said = "dbus-activator: {0}: Process {0} exited with status 3\n"  # as it is meant to
    assert (done.returncode, done.stderr) == (0, said.format("org.activation.Demo.Exits"))
    assert done.stdout.endswith("processes left behind: 0\n")


@pytest.mark.parametrize("module", ["click", "dbus_next"])
def test_a_python_without_our_dependencies_gets_one_line(tmp_path: Path, module: str) -> None:
    code = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv[1:] = ['demo']; "
    code += "runpy.run_module('broker', run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    missing = f"{sys.executable} has no module {module}"
    said = f"dbus-activator: {missing}: install dbus-activator for it with pip\n"
    assert (done.returncode, done.stdout, done.stderr) == (5, "", said)


@pytest.mark.asyncio
async def test_ps_shows_the_tree(place: Place) -> None:
    place.add(NAME, f"{place.service} -d -l {NAME}")
    async with place.serve() as bus:
        await bus.echo(NAME)
        main, pids = await bus.get(NAME, "MainPID", "PIDs")
        ps: list[str | Path] = [place.user.command, "ps", f"--address={bus.address}"]
        table = place.user.run([*ps, NAME]).stdout.splitlines()
        assert table[0].split() == ["PID", "PPID", "EXIT", "STARTED", "COMMAND"]
        rows = {int(line.split()[0]): line for line in table[2:]}
        assert rows.keys() == set(pids)
        assert rows[main].endswith(f"{place.service} -d -l {NAME}  (adopted)")
        # The first process has ended; it is remembered.
        exited = place.user.run([*ps, "--exited", "--no-legend", NAME]).stdout.splitlines()
        assert [line.split()[2] for line in exited[1:]].count("0") == 2
        everything = place.user.run(ps).stdout
        assert place.engine in everything
        records = json.loads(place.user.run([*ps, "--json=short"]).stdout)
        assert {each["PID"] for each in records} >= {
            pid for pid in pids if (stat := procfs.stat(pid)) and stat.ppid == bus.pid
        }


@pytest.mark.asyncio
async def test_ps_says_what_is_wrong(place: Place) -> None:
    def complaint(*options: str) -> tuple[int, str]:
        done = place.user.run([place.user.command, "ps", *options], env={"PATH": "/usr/bin:/bin"})
        assert done.stdout == ""
        return done.returncode, done.stderr

    assert complaint() == (
        1,
        "dbus-activator: no bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set\n",
    )
    status, said = complaint("--address=unix:path=/nonexistent")
    assert status == 1
    assert said == (
        "dbus-activator: cannot connect to unix:path=/nonexistent: No such file or directory\n"
    )
    async with place.serve() as bus:
        status, said = complaint(f"--address={bus.address}", "no.such.Name")
        assert status == 4
        assert "no.such.Name was not provided by any .service files" in said
