"""Numbers and paths of every kind, on the command line and in the environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner

from broker.cli import numbers, output
from broker.cli.dbus_daemon import command as dbus_daemon
from broker.cli.verbs import cli
from broker.core.digits import decimal
from broker.errors import BadConfiguration, Disconnected
from broker.process import sd_daemon
from broker.testing.settings import Settings
from tests.bus import conftest as foreign

if TYPE_CHECKING:
    from pathlib import Path

short_directory = foreign.short_directory

HUGE: Final = "9" * 5000
# No numbers to us, some of which Python reads or refuses in its own ways.
ODD: Final = (
    "²",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "",
    "-1",
    "1_000",
    "0x10",
    "99999999999999999999",
    HUGE,
)


@pytest.mark.parametrize("text", ODD)
def test_values_that_are_not_numbers(text: str) -> None:
    assert decimal(text, 2**31 - 1) is None


def test_numbers() -> None:
    assert [decimal(text, 65535) for text in ("0", "007", "65535", "65536")] == [0, 7, 65535, None]
    assert decimal("0" * 5000 + "1", 1) == 1


@pytest.mark.parametrize(
    "argv",
    [
        *(
            [verb, f"--timeout={seconds}", "x"]
            for verb in ("wait", "start", "monitor", "logs")
            for seconds in ("nan", "-1", "-inf", "-nan", "x", "²")
        ),
        *(
            [verb, f"--{which}-timeout={seconds}", *rest]
            for verb, *rest in (["run", "true"], ["serve"])
            for which in ("activation", "stop")
            for seconds in ("nan", "-1")
        ),
        *(
            ["serve", f"--{option}={fd}"]
            for option in ("lifeline", "print-address", "print-pid")
            for fd in ("99999999999999999999", "-1", "²", "2147483648")
        ),
        *(["kill", "-s", number, "x"] for number in ("²", "0", "-1", "65", HUGE)),
        *(["logs", "-n", number, "x"] for number in ("²", "-1", "x")),
    ],
    ids=" ".join,
)
def test_an_option_that_is_no_number(argv: list[str]) -> None:
    done = CliRunner().invoke(cli, argv)
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert "Error: Invalid value for" in done.output or "Error: No such option" in done.output


def _hang_up(listening: socket.socket) -> None:
    client, _ = listening.accept()
    client.close()


@pytest.mark.parametrize("seconds", ["inf", "1e400", "1e300", "3000000"])
def test_a_time_without_end_is_one(short_directory: Path, seconds: str) -> None:
    """Longer than poll(2) can wait, and than a time in microseconds fits 64 bits."""
    assert numbers.SECONDS.convert(seconds, None, None) <= numbers.LONGEST
    path = short_directory / "closed"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        # A bus that is not there any more: the verb waits for it first.
        with ThreadPoolExecutor() as pool:
            ending = pool.submit(_hang_up, listening)
            argv = ["wait", f"--timeout={seconds}", f"--address=unix:path={path}", "x"]
            done = CliRunner().invoke(cli, argv)
            ending.result()
    path.unlink()
    assert isinstance(done.exception, Disconnected)


def test_descriptors_of_the_stand_in() -> None:
    for option in ("--print-address", "--print-pid"):
        done = CliRunner().invoke(dbus_daemon, ["--session", f"{option}=99999999999999999999"])
        assert (done.exit_code, type(done.exception)) == (2, SystemExit)


@pytest.mark.parametrize("count", [each for each in ODD if each])
def test_passed_sockets_that_are_no_number(count: str) -> None:
    with pytest.raises(BadConfiguration, match="LISTEN_FDS"):
        sd_daemon.passed_descriptor({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


@pytest.mark.parametrize("columns", ODD)
def test_columns_that_are_no_number(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as file, open(ours, "rb"):
        monkeypatch.setattr(sys, "stdout", file)
        assert output.width() == 80


@pytest.mark.parametrize("name", ["leak_grace", "activation_timeout", "stop_timeout"])
@pytest.mark.parametrize("seconds", [float("nan"), -1.0])
def test_settings_that_are_no_number(name: str, seconds: float) -> None:
    with pytest.raises(pytest.UsageError, match=f"{name}: .* is not a number of seconds"):
        Settings(**{name: seconds})  # type: ignore[arg-type]


def run(*argv: str | bytes, **environ: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "broker", *argv]
    environ = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(command, capture_output=True, check=False, timeout=30, env=environ)


@pytest.mark.parametrize("engine", ["dbus-broker", "dbus-daemon"])
def test_a_runtime_directory_whose_name_is_no_text(tmp_path: Path, engine: str) -> None:
    directory = os.path.join(os.fsencode(tmp_path), b"\xff")
    os.mkdir(directory)
    command = [sys.executable, "-m", "broker", "list"]
    done = run(
        "run",
        f"--engine={engine}",
        "--services",
        directory,
        "--",
        *command,
        XDG_RUNTIME_DIR=directory,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"NAME")
    assert os.listdir(directory) == []


def test_what_was_typed_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """Control characters, and bytes that are no text, in another locale too."""
    odd = b"\x1b[31m\xff\n\r\xc2\x9b"
    bad = os.path.join(os.fsencode(tmp_path), odd + b".service")
    with open(bad, "w", encoding="ascii") as file:
        file.write("[D-BUS Service]\nName=x\n")
    where = b"unix:path=/none/" + odd
    for argv, environ in (
        (["verify", bad], {}),
        (["verify", odd], {}),
        (["list", b"--address=" + odd], {}),
        (["list", b"--address=" + where], {}),
        (["list"], {"DBUS_SESSION_BUS_ADDRESS": where}),
        (["list"], {"XDG_RUNTIME_DIR": b"/none/" + odd}),
        (["list", odd], {}),
        (["kill", "-s", odd, "x"], {}),
        (["run", "--services", odd, "true"], {}),
        (["run", "--config-file", odd, "true"], {}),
        (["run", "--json-report", b"/none/" + odd, "true"], {}),
        (["serve", b"--address=" + where], {}),
        (["serve"], {"XDG_RUNTIME_DIR": b"/none/" + odd}),
    ):
        for locale in (
            {"LC_ALL": "C.UTF-8"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ):
            done = run(*argv, **environ, **locale)
            assert done.returncode in (1, 2, 4, 6, 127), argv
            said = done.stdout + done.stderr
            assert b"Traceback" not in said, (argv, said)
            assert not {*said} & {*range(10), *range(11, 32), 127}, (argv, said)
            assert b"\xc2\x9b" not in said
            said.decode()
