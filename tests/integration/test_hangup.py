"""Ctrl-C, signals and the hangup of a terminal, as the command of ``run`` meets them."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from broker.process import procfs
from tests.integration.terminal import Terminal
from tests.integration.worlds import has_signal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.integration.buses import Place

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True),
]

NAME: Final = "org.activation.Test.One"
# Says which signals it has had, and ends with the third argument's.
TELLER: Final = """\
import os, signal, sys
if sys.argv[1] == "apart":
    os.setpgid(0, 0)
def tell(number, frame):
    os.write(1, f"got {signal.Signals(number).name}\\n".encode())
    if number == signal.SIGTERM:
        sys.exit(5)
for number in signal.SIGINT, signal.SIGQUIT, signal.SIGTERM:
    signal.signal(number, tell)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def on_terminal(place: Place, *command: str | Path, options: Sequence[str] = ()) -> Terminal:
    """``run`` as the leader of a terminal's session, with a command."""
    argv = [place.user.command, "run", f"--services={place.services}", *options, "--", *command]
    return Terminal(place.user, argv, 80, place.environ(), leads=True)


def below(pid: int) -> list[int]:
    """A process, and all below it."""
    return procfs.with_descendants([pid])


# -- the terminal ---------------------------------------------------------------------------


def test_a_session_leader_ends_with_its_terminal(place: Place) -> None:
    """``ssh -t host dbus-activator run …`` when the network goes."""
    place.add(NAME, f"{place.service} -d {NAME}")
    call = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s x"
    told = place.write("told", "", mode=0o666)
    script = place.write(
        "command",
        f"#!/bin/sh\ntrap 'echo hung up >>{told}; exit 3' HUP\n{call}\n"
        "echo ready\nwhile :; do sleep 0.05; done\n",
    )
    with on_terminal(place, script) as terminal:
        terminal.until("ready\n")
        session = below(terminal.pid)
        assert len(session) >= 5
        terminal.hang_up()
        assert terminal.wait() == 3
    assert told.read_text() == "hung up\n"
    assert [pid for pid in session if procfs.alive(pid)] == []


def test_a_command_that_ignores_the_hangup_is_ended(place: Place) -> None:
    with on_terminal(
        place,
        *("sh", "-c", "trap '' HUP TERM; echo ready; kill -STOP $$; sleep 1000"),
        options=["--stop-timeout=0.5"],
    ) as terminal:
        terminal.until("ready\n")
        session = below(terminal.pid)
        terminal.hang_up()
        assert terminal.wait() == 128 + signal.SIGHUP
    assert [pid for pid in session if procfs.alive(pid)] == []


def test_nohup_means_what_it_says(place: Place) -> None:
    go = place.fifo("go")
    run = f"{place.user.command} run --stop-timeout=0 -- sh -c 'echo ready; read _ <{go}; exit 4'"
    argv = ["/bin/sh", "-c", f"trap '' HUP; exec {run}"]
    with Terminal(place.user, argv, 80, place.environ(), leads=True) as terminal:
        terminal.until("ready\n")
        terminal.hang_up()
        while has_signal(terminal.pid, "ShdPnd", signal.SIGHUP):
            pass
        go.write_text("go\n")
        assert terminal.wait() == 4


def test_serve_ends_with_its_terminal(place: Place) -> None:
    argv: list[str | Path] = [place.user.command, "serve", "--print-address"]
    with Terminal(place.user, argv, 80, place.environ(), leads=True) as terminal:
        terminal.until("guid=")
        terminal.hang_up()
        assert terminal.wait() == 0


@pytest.mark.parametrize("group", ["apart", "together"])
def test_the_command_gets_what_is_typed_once(place: Place, group: str) -> None:
    """And goes on, if it handles it: an interpreter's prompt is not left by Ctrl-C."""
    python = place.user.command.parent / "python"
    teller = place.write("teller", TELLER)
    with on_terminal(place, python, teller, group) as terminal:
        terminal.until("ready\n")
        terminal.type("\x03")
        terminal.until("got SIGINT\n")
        terminal.type("\x1c")
        terminal.until("got SIGQUIT\n")
        if group == "together":
            terminal.type("\x03")
            terminal.until("got SIGINT\n")
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.end() == 5
        assert terminal.shown.count("got SIGINT") == 1 + (group == "together")
        assert terminal.shown.count("got SIGQUIT") == 1
        assert terminal.shown.count("got SIGTERM") == 1


def test_ctrl_c_reaches_what_timeout_has_started(place: Place) -> None:
    """``run -- timeout 600 make check``: make is in a group of its own, behind run's."""
    script = place.write("check", "#!/bin/sh\ntrap 'echo tidy; exit 6' INT\necho ready\nread _\n")
    # By exec: a shell in between would die of the signal, and the session end before the script.
    argv = ["timeout", "600", "sh", "-c", f"exec {script} <{place.fifo('never')}"]
    with on_terminal(place, *argv) as terminal:
        never = os.open(place.path / "never", os.O_RDWR)
        try:
            terminal.until("ready\n")
            terminal.type("\x03")
            terminal.until("tidy\n")
            terminal.end()
        finally:
            os.close(never)


# -- a second signal ------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_forces_the_end(place: Place, number: signal.Signals) -> None:
    script = place.write(
        "command", f"#!/bin/sh\ntrap '' {int(number)}\necho ready\nread _ <{place.fifo('never')}\n"
    )
    process = place.user.popen(
        [place.user.command, "run", "--stop-timeout=0.2", "--", script],
        env=place.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    started = ("/bin/sh", str(script))
    (command,) = (pid for pid in below(process.pid) if procfs.command(pid) == started)
    process.send_signal(number)
    if number != signal.SIGHUP:
        # That it ignores it, after a second.
        assert process.stderr.readline() == (
            f"dbus-activator: waiting for the command  pid {command}  /bin/sh {script}: "
            f"a second {number.name} kills it\n"
        )
    while has_signal(process.pid, "ShdPnd", number):
        pass
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert said == f"dbus-activator: the command has survived {number.name}, and is killed\n"


@pytest.mark.parametrize("user", ["self"], indirect=True)
def test_a_second_ctrl_c_forces_the_end_of_what_ignores_the_first(place: Place) -> None:
    ignoring = ["sh", "-c", "trap '' INT; echo ready; read _"]
    with on_terminal(place, *ignoring, options=["--stop-timeout=0.2"]) as terminal:
        terminal.until("ready\n")
        terminal.type("\x03")
        terminal.until(": a second SIGINT kills it\n")
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGKILL


def test_ctrl_c_before_there_is_a_command(place: Place) -> None:
    """The bus hangs, or is slow: nobody waits for it any more."""
    asked = place.fifo("asked")
    (place.path / "bin").mkdir()
    place.write("bin/dbus-broker", f"#!/bin/sh\necho asked >{asked}\nexec sleep 1000\n")
    environ = place.environ(PATH=f"{place.path}/bin:/usr/bin:/bin")
    argv: list[str | Path] = [
        place.user.command,
        "run",
        "--engine=dbus-broker",
        "--",
        "echo",
        "started",
    ]
    with Terminal(place.user, argv, 80, environ, leads=True) as terminal:
        assert asked.read_text() == "asked\n"
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGINT
        assert terminal.shown == "^C"
