"""``run``: a command in a session, its status, and nothing left of either."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from broker.core.exits import Result
from broker.process import procfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Place

NAME = "org.activation.Test.One"
CALL = f"busctl call {NAME} / org.activation.Test Echo s hello"


def alive(pid_file: Path) -> list[int]:
    """Those of the recorded processes that still live."""
    return [pid for pid in map(int, pid_file.read_text().split()) if procfs.alive(pid)]


def pids_below(parent: int) -> list[int]:
    """Everything below a process."""
    found = [parent]
    for pid in found:
        found += procfs.children_of(pid)
    return found[1:]


@pytest.mark.parametrize("status", [0, 1, 7, 126, 127, 255])
def test_the_status_is_the_commands(place: Place, status: int) -> None:
    assert place.run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_is_128_and_its_number(place: Place, number: signal.Signals) -> None:
    assert place.run("sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


def test_services_are_activated_inside(place: Place) -> None:
    place.add(NAME)
    done = place.run("sh", "-c", f"busctl --address=$DBUS_SESSION_BUS_ADDRESS {CALL[7:]}")
    assert (done.stdout, done.returncode) == ('s "hello"\n', 0)


def test_nothing_is_left_and_output_ends_with_run(place: Place) -> None:
    place.add(NAME, f"{place.service} -d -l {NAME}")
    script = place.write(
        "command",
        f"""#!/bin/sh
        busctl --address=$DBUS_SESSION_BUS_ADDRESS {CALL[7:]}
        # Two daemons of the command's own, which hold its standard output.
        setsid sleep 1000 &
        (setsid sh -c 'sleep 1000 & sleep 1000' &)
        # Every process with the broker's mark descends from it.
        ps -e -o pid=,ppid= >processes
        exit 3
        """,
    )
    (place.path / "processes").touch(mode=0o666)
    (place.path / "processes").chmod(0o666)
    began = time.monotonic()
    # subprocess.run reads standard output to its end: a leaked holder would keep it.
    done = place.run(str(script))
    assert time.monotonic() - began < 10
    assert done.returncode == 3
    table = [line.split() for line in (place.path / "processes").read_text().splitlines()]
    parents = {int(pid): int(ppid) for pid, ppid in table}
    sleepers = [pid for pid in parents if pid > 1 and parents[pid] not in (0, 2)]
    assert sleepers
    assert not list(place.path.glob("dbus-activator-*"))


def test_what_the_command_leaves_behind_ends(place: Place) -> None:
    script = place.write(
        "command", "#!/bin/sh\n(setsid sleep 1000 & echo $!)\nsetsid sleep 1000 & echo $!\n"
    )
    done = place.run(str(script))
    left = [int(word) for word in done.stdout.split()]
    assert len(left) == 2
    assert [pid for pid in left if procfs.alive(pid)] == []


WAITS = """\
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
open({ready!r}, "w").close()
signal.sigwait([signal.SIGTERM])
print("asked", flush=True)
"""


def test_what_the_command_leaves_behind_is_asked_first(place: Place) -> None:
    ready = place.fifo("ready")
    program = place.write("waits", WAITS.format(ready=str(ready)))
    python = place.user.command.parent / "python"
    script = place.write("command", f"#!/bin/sh\n{python} {program} &\nread _ <{ready}\n")
    done = place.run(str(script))
    assert (done.stdout, done.stderr) == ("asked\n", "")


def test_fail_on_leak_names_what_outlived_the_command(place: Place) -> None:
    place.add(NAME, f"{place.service} -l {NAME}")
    script = place.write(
        "command", f"#!/bin/sh\nbusctl --address=$DBUS_SESSION_BUS_ADDRESS {CALL[7:]}\nexit $1\n"
    )
    done = place.run(str(script), "0", options=["--fail-on-leak"])
    assert done.returncode == 99
    assert "1 process outlived the command and was killed" in done.stderr
    assert f"{NAME}  pid " in done.stderr
    assert "(adopted)" in done.stderr
    # The command's own failure matters more.
    assert place.run(str(script), "5", options=["--fail-on-leak"]).returncode == 5


def test_a_running_service_is_no_leak(place: Place) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    script = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS {CALL[7:]}"
    assert place.run("sh", "-c", script, options=["--fail-on-leak"]).returncode == 0


def test_the_environment_has_the_bus_and_no_starter(place: Place) -> None:
    environ = place.environ(
        DBUS_STARTER_ADDRESS="x", DBUS_STARTER_BUS_TYPE="y", DBUS_SESSION_BUS_PID="1", KEPT="z"
    )
    done = place.run("env", env=environ)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert not [name for name in found if name.startswith("DBUS_STARTER")]
    assert "DBUS_SESSION_BUS_PID" not in found
    assert found["KEPT"] == "z"
    assert found["DBUS_SESSION_BUS_ADDRESS"].startswith("unix:path=")
    assert ",guid=" in found["DBUS_SESSION_BUS_ADDRESS"]


def test_the_command_keeps_stdin_and_descriptors(place: Place) -> None:
    read, write = os.pipe()
    os.write(write, b"from a descriptor\n")
    os.close(write)
    done = place.run("bash", "-c", f"cat; cat <&{read}", input="from stdin\n", pass_fds=[read])
    os.close(read)
    assert done.stdout == "from stdin\nfrom a descriptor\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_the_command(place: Place, number: signal.Signals) -> None:
    script = place.write(
        "command",
        f"#!/bin/sh\ntrap 'echo got it; exit 42' {int(number)}\necho ready\n"
        "while :; do sleep 0.05; done\n",
    )
    process = place.user.popen(
        [place.user.command, "run", f"--engine={place.engine}", "--", script],
        env=place.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "got it\n"
    assert process.wait() == 42


def test_ignored_signals_stay_ignored_for_the_command(place: Place) -> None:
    """As under nohup; and what Python ignores on its own account is not."""
    look = "grep -E ^Sig[BI] /proc/self/status"
    run = f"{place.user.command} run --engine={place.engine} -- {look}"
    masks = []
    for each in (look, run):
        done = place.user.run(["sh", "-c", f"trap '' HUP; exec {each}"], env=place.environ())
        fields = (line.split() for line in done.stdout.splitlines())
        # glibc's posix_spawn has its own two signals, 32 and 33, ignored.
        masks.append({name: int(value, 16) & ~(3 << 31) for name, value in fields})
    assert masks[0] == masks[1]
    assert masks[0]["SigIgn:"] & 1 << signal.SIGHUP - 1


def test_a_command_that_does_not_exist_is_127(place: Place) -> None:
    done = place.run("no-such-command-here")
    assert done.returncode == 127
    assert "no-such-command-here: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bus_that_is_killed_ends_run_with_127(place: Place) -> None:
    script = place.write("command", "#!/bin/sh\necho ready\nexec sleep 1000\n")
    process = place.user.popen(
        [place.user.command, "run", f"--engine={place.engine}", "--", script],
        env=place.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    below = pids_below(process.pid)
    (bus,) = [pid for pid in below if place.engine in procfs.command(pid)[0]]
    os.kill(bus, signal.SIGKILL)
    _, complaints = process.communicate()
    assert process.returncode == 127
    assert "the message bus has ended" in complaints
    assert "Traceback" not in complaints
    assert [pid for pid in below if procfs.alive(pid)] == []


def test_an_interactive_shell_has_job_control(place: Place) -> None:
    """The command is in the terminal's session and can take its foreground."""
    pid, terminal = pty.fork()
    if pid == 0:
        options = ["run", f"--engine={place.engine}", f"--services={place.services}", "--"]
        environ = place.environ(PS1="$ ", TERM="dumb")
        if place.user.uid is not None:
            os.setgroups([])
            os.setgid(place.user.uid)
            os.setuid(place.user.uid)
        command = str(place.user.command)
        os.execve(command, [command, *options, "bash", "--norc", "-i"], environ)
    output = b""

    def read_until(text: bytes) -> None:
        nonlocal output
        while text not in output:
            ready, _, _ = select.select([terminal], [], [], 20)
            assert ready, output
            try:
                output += os.read(terminal, 4096)
            except OSError:  # the terminal has been hung up
                break

    read_until(b"$ ")
    output = b""
    # The shell's own foreground job is interrupted, not the shell and not run.
    os.write(terminal, b"echo begin-$((1+1)); sleep 1000\n")
    read_until(b"begin-2")
    while not any("sleep" in procfs.command(each)[0] for each in pids_below(pid)):
        pass
    os.write(terminal, b"\x03")
    os.write(terminal, b"echo status-$?; tty; exit 5\n")
    read_until(b"status-130")
    read_until(b"/dev/pts/")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5
    assert b"no job control" not in output


# What `run --json-report` promises; a key may be added, none may go.
REPORT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["version", "command", "status", "exit", "services", "processes", "leaks"],
    "properties": {
        "version": {"type": "string"},
        "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "status": {"type": "integer", "minimum": 0, "maximum": 255},
        "exit": {"$ref": "#/$defs/exit"},
        "services": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    *("name", "descriptor", "state", "sub_state", "result", "activations"),
                    *("failures", "activation_usec", "pid", "exit"),
                ],
                "properties": {
                    "name": {"type": "string", "pattern": r"\."},
                    "descriptor": {"type": "string", "pattern": "^/"},
                    "state": {
                        "enum": ["inactive", "activating", "active", "deactivating", "failed"]
                    },
                    "sub_state": {"type": "string"},
                    "result": {"enum": [str(each) for each in Result]},
                    "activations": {"$ref": "#/$defs/count"},
                    "failures": {"$ref": "#/$defs/count"},
                    "activation_usec": {"$ref": "#/$defs/count"},
                    "pid": {"$ref": "#/$defs/count"},
                    "exit": {"anyOf": [{"$ref": "#/$defs/exit"}, {"type": "null"}]},
                },
            },
        },
        "processes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    *("service", "pid", "ppid", "origin", "attribution", "command", "started"),
                    *("ended", "exit", "user_usec", "system_usec", "max_rss_bytes"),
                ],
                "properties": {
                    "service": {"type": "string"},
                    "pid": {"$ref": "#/$defs/count"},
                    "ppid": {"$ref": "#/$defs/count"},
                    "origin": {"enum": ["spawned", "adopted"]},
                    "attribution": {"enum": ["spawned", "cgroup", "tag", "session", "none"]},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "started": {"$ref": "#/$defs/count"},
                    "ended": {"type": ["integer", "null"]},
                    "exit": {"anyOf": [{"$ref": "#/$defs/exit"}, {"type": "null"}]},
                },
            },
        },
        "leaks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    *("service", "pid", "origin", "adopted", "program", "command", "state"),
                    *("age", "names"),
                ],
                "properties": {
                    "service": {"type": "string"},
                    "pid": {"$ref": "#/$defs/count"},
                    "origin": {"enum": ["spawned", "adopted", "child"]},
                    "adopted": {"type": "boolean"},
                    "program": {"type": "string", "minLength": 1},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "state": {"type": "string", "minLength": 1},
                    "age": {"type": "number", "minimum": 0},
                    "names": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
    "$defs": {
        "count": {"type": "integer", "minimum": 0},
        "exit": {
            "type": "object",
            "required": ["code", "status"],
            "properties": {"code": {"enum": [1, 2, 3]}, "status": {"$ref": "#/$defs/count"}},
        },
    },
}


def test_the_report_has_services_processes_and_leaks(place: Place) -> None:
    place.add(NAME, f"{place.service} -l {NAME}")
    place.add("org.activation.Test.Two", f"{place.service} -x 3 org.activation.Test.Two")
    place.add("org.activation.Test.Unused")
    script = place.write(
        "command",
        f"#!/bin/sh\nbusctl --address=$DBUS_SESSION_BUS_ADDRESS {CALL[7:]}\n"
        "busctl --address=$DBUS_SESSION_BUS_ADDRESS call org.activation.Test.Two / "
        "org.activation.Test Echo s x\nexit 0\n",
    )
    # An old one, which must not be taken for this session's.
    place.write("report.json", "not of this session", mode=0o666)
    options = ["--fail-on-leak", f"--json-report={place.path}/report.json"]
    done = place.run(str(script), "an argument", options=options)
    assert done.returncode == 99, done.stderr
    found = json.loads((place.path / "report.json").read_text())
    jsonschema.validate(found, REPORT)
    assert found["command"] == [str(script), "an argument"]
    assert (found["status"], found["exit"]) == (99, {"code": 1, "status": 0})
    one, two = found["services"]
    assert (one["name"], one["state"], one["activations"], one["exit"]) == (NAME, "active", 1, None)
    assert (two["state"], two["result"], two["failures"]) == ("failed", "exit-code", 1)
    assert two["exit"] == {"code": 1, "status": 3}
    (leak,) = found["leaks"]
    assert (leak["service"], leak["adopted"]) == (NAME, True)
    own = {each["pid"]: each for each in found["processes"] if each["service"] == NAME}
    assert own[one["pid"]]["origin"] == "spawned"
    assert own[leak["pid"]]["origin"] == "adopted"
    ended = [each["exit"] for each in found["processes"] if each["pid"] == two["pid"]]
    assert ended == [{"code": 1, "status": 3}]


def test_a_report_that_cannot_be_written_is_our_own_failure(place: Place) -> None:
    done = place.run("true", options=["--json-report=/nonexistent/report"])
    assert (done.returncode, "No such file or directory" in done.stderr) == (2, True)
    done = place.run("true", options=["--json-report=/dev/full"])
    assert done.returncode == 127
    assert done.stderr == "dbus-activator: --json-report: /dev/full: No space left on device\n"
