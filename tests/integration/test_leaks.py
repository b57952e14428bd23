"""What ``run --fail-on-leak`` lets pass, and what it does not."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.process import procfs

if TYPE_CHECKING:
    from tests.integration.buses import Place

NAME = "org.activation.Test.One"
OTHER = "org.activation.Test.Two"
START = "busctl --address=$DBUS_SESSION_BUS_ADDRESS call org.freedesktop.DBus "
START += "/org/freedesktop/DBus org.freedesktop.DBus StartServiceByName su {name} 0"
FIRE = "busctl --address=$DBUS_SESSION_BUS_ADDRESS --expect-reply=no "
FIRE += f"call {NAME} / org.activation.Test Echo s hello"
ONE_USER = pytest.mark.parametrize("user", ["self"], indirect=True)
LEAVE = "setsid sleep 1000 >/dev/null & echo $$"
HELPERS = ("connects", "daemonizes", "pairs", "careless", "untidy", "pipes", "calls", "chain")


def leaks(place: Place, script: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The status of ``run``, without grace if not said otherwise, and the leaks of its report."""
    place.write("report.json", "", mode=0o666)
    given = ["--fail-on-leak", "--leak-grace=0", f"--json-report={place.path}/report.json"]
    done = place.run("sh", "-c", script, options=[*given, *options])
    found = json.loads((place.path / "report.json").read_text())["leaks"]
    assert len(found) == done.stderr.count("\n  "), done.stderr
    return done.returncode, found


def add_helping(place: Place, *steps: str) -> Path:
    """A service of ``helping.py``; returns the file with its orphans."""
    program = place.write("helping.py", Path(__file__).with_name("helping.py").read_bytes())
    orphans = place.write("orphans", "", mode=0o666)
    python = place.user.command.parent / "python"
    place.add(NAME, shlex.join(map(str, (python, program, orphans, *steps))))
    return orphans


def add_changing(place: Place) -> str:
    """A service that takes its name, then another one in its place; what waits for that."""
    program = (
        "import sys; from broker.testing import faulty; bus = faulty.own(sys.argv[1]);"
        "bus.call_bus('RequestName', 'su', sys.argv[2], 0);"
        "bus.call_bus('ReleaseName', 's', sys.argv[1]); faulty.serve(bus)"
    )
    python = place.user.command.parent / "python"
    place.add(NAME, shlex.join([str(python), "-c", program, NAME, OTHER]))
    status = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS status {NAME}"
    return f"{START.format(name=NAME)}; while {status}; do :; done; exit 0"


def test_a_helper_of_a_service_is_no_leak(place: Place) -> None:
    orphans = add_helping(place, *HELPERS, NAME)
    assert leaks(place, START.format(name=NAME)) == (0, [])
    kinds = [line.split()[0] for line in orphans.read_text().splitlines()]
    assert sorted(kinds) == sorted([*HELPERS, "pairs"])  # the chain has another one


def test_what_has_only_inherited_is_a_leak(place: Place) -> None:
    """Both ends of a pair, the service's end of another and its connection to the bus."""
    orphans = add_helping(place, "inherits", *HELPERS[2:6], NAME, "inherits", OTHER)
    place.add(OTHER, "/bin/false")
    script = f"{START.format(name=NAME)}; while ! busctl --address=$DBUS_SESSION_BUS_ADDRESS "
    status, found = leaks(place, f"{script} status {OTHER}; do :; done")
    lines = [line.split() for line in orphans.read_text().splitlines()]
    left = [int(pid) for kind, pid in lines if kind == "inherits"]
    assert (status, len(left)) == (99, 2)
    assert sorted(each["pid"] for each in found) == sorted(left)


@ONE_USER
def test_a_leak_is_told_of_in_the_report(place: Place) -> None:
    """Of a service that has given its name up, and owns another."""
    script = add_changing(place)
    status, (leak,) = leaks(place, script)
    assert status == 99
    assert (leak["service"], leak["names"], leak["origin"]) == (NAME, [OTHER], "spawned")
    assert (leak["state"], leak["adopted"]) == ("sleeping", False)
    assert leak["program"].startswith("python")


@ONE_USER
def test_a_service_that_serves_for_another_is_no_leak(place: Place) -> None:
    """It was started for a name that it has given up, and owns another one that can be."""
    script = add_changing(place)
    place.add(OTHER, "/bin/false")
    assert leaks(place, script) == (0, [])


@ONE_USER
def test_what_waits_for_a_service_is_no_leak(place: Place) -> None:
    place.add(NAME, f"/bin/sh -c '{place.service} {NAME}; true'")
    assert leaks(place, START.format(name=NAME)) == (0, [])


@ONE_USER
def test_a_service_that_is_starting_is_no_leak(place: Place) -> None:
    ready = place.fifo("ready")
    place.add(NAME, f"/bin/sh -c '(echo >{ready} &); exec sleep 1000'")
    assert leaks(place, f"{FIRE}; read _ <{ready}; exit 0") == (0, [])


@ONE_USER
def test_what_is_about_to_end_is_no_leak(place: Place) -> None:
    script = "(setsid sleep 0.3 &); exit 0"
    assert leaks(place, script)[0] == 99
    assert leaks(place, script, "--leak-grace=20") == (0, [])
    assert place.run("sh", "-c", script, options=["--fail-on-leak"]).returncode == 0


@ONE_USER
def test_a_signal_ends_the_grace(place: Place) -> None:
    options = [f"--engine={place.engine}", f"--services={place.services}", "--fail-on-leak"]
    run = place.user.popen(
        [place.user.command, "run", *options, "--leak-grace=600", "--", "sh", "-c", LEAVE],
        cwd=place.path,
        env=place.environ(),
        stdout=subprocess.PIPE,
    )
    assert run.stdout is not None
    command = int(run.stdout.readline())
    while procfs.stat(command):  # until it has been reaped
        pass
    run.send_signal(signal.SIGINT)
    run.stdout.close()
    assert run.wait(20) == 99


@ONE_USER
def test_what_is_ending_is_no_leak(place: Place) -> None:
    """It gives back much memory between its last instruction and its death."""
    ready = place.fifo("ready")
    program = "import mmap, signal; m = mmap.mmap(-1, 200 << 20); m[::4096] = bytes(51200); "
    program += "print(flush=True); signal.pause()"
    python = place.user.command.parent / "python"
    script = f"{python} -c '{program}' >{ready} & read _ <{ready}; kill -9 $!; exit 0"
    assert leaks(place, script) == (0, [])


def test_a_bus_of_the_commands_own_is_no_leak(place: Place, link: Path) -> None:
    """Neither dbus-run-session nor GTestDBus waits for the end of its dbus-daemon."""
    options = ["--fail-on-leak"]
    done = place.run("dbus-run-session", f"--dbus-daemon={link}", "--", "true", options=options)
    assert (done.returncode, done.stderr) == (0, "")
    bus = "exec 3<>fifo; dbus-daemon --session --nofork --print-address=3 & read _ <&3; kill $!"
    place.fifo("fifo")
    assert place.run("sh", "-c", bus, options=options).returncode == 0


@ONE_USER
def test_an_ignored_program_is_no_leak(place: Place) -> None:
    script = "setsid sleep 1000 & exit 0"
    # It is a shell until it has executed setsid, and that until it has executed sleep.
    grace = "--leak-grace=20"
    assert leaks(place, script, grace, "--ignore-leak=none", "--ignore-leak=sle*") == (0, [])
    assert leaks(place, script, "--ignore-leak=leep")[0] == 99
