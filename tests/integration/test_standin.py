"""In dbus-daemon's place: for the tools that start one, with its options and its files."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from broker.process import procfs
from tests.integration import buses
from tests.integration.buses import TEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Place

NAME = f"{TEST}.One"
OTHER = f"{TEST}.Other"
BAD = f"{TEST}.Bad"
OPEN = """
<policy context="default">
  <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
"""
# Debian's, in short: what is not named is forbidden.
SYSTEM = """
<type>system</type>
<policy context="default">
  <allow user="*"/><deny own="*"/><deny send_type="method_call"/>
  <allow send_type="signal"/>
  <allow send_requested_reply="true" send_type="method_return"/>
  <allow send_requested_reply="true" send_type="error"/>
  <allow receive_type="method_call"/><allow receive_type="method_return"/>
  <allow receive_type="error"/><allow receive_type="signal"/>
  <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  <deny send_destination="org.freedesktop.DBus"
        send_interface="org.freedesktop.systemd1.Activator"/>
</policy>
"""


@pytest.fixture
def link(place: Place) -> Path:
    """dbus-activator by dbus-daemon's name, in a directory of its own."""
    path = place.path / "link" / "dbus-daemon"
    path.parent.mkdir()
    path.symlink_to(place.user.command)
    return path


@pytest.fixture(scope="session")
def gtest_program() -> Iterator[Path]:
    """The GLib test, compiled where every user can execute it."""
    directory = Path(tempfile.mkdtemp(prefix="dat-gtest-", dir="/tmp"))
    directory.chmod(0o755)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "gio-2.0"], check=True, text=True, capture_output=True
    ).stdout.split()
    source = Path(__file__).parent / "gtest.c"
    program = directory / "gtest"
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", program, source, *flags], check=True)
    yield program
    buses.remove(directory)


def environ(place: Place, **changes: str) -> dict[str, str]:
    """Nothing but the link and the one engine is in PATH, the link first."""
    engines = place.path / "engines"
    if not engines.exists():
        engines.mkdir()
        (engines / place.engine).symlink_to(f"/usr/bin/{place.engine}")
    changes.setdefault("PATH", f"{place.path}/link:{engines}")
    return place.environ(**changes)


def config(place: Place, text: str, policy: str = OPEN) -> Path:
    """A configuration file with the place's descriptors."""
    text = f"<servicedir>{place.services}</servicedir>\n{text}\n{policy}"
    return place.write("bus.conf", f"<busconfig>{text}</busconfig>")


@dataclass(slots=True)
class Standin:
    """A running bus in dbus-daemon's place."""

    place: Place
    process: subprocess.Popen[bytes]
    address: str
    complaints: IO[bytes]

    def call(self, name: str, member: str, *arguments: str) -> str:
        """The answer to a method call of the user's, as dbus-send prints it."""
        where = f"--bus={self.address}"
        argv: list[str | Path] = [
            "/usr/bin/dbus-send",
            where,
            "--print-reply=literal",
            f"--dest={name}",
        ]
        done = self.place.user.run([*argv, "/", member, *arguments], env={})
        return (done.stdout or done.stderr).strip()

    def echo(self, name: str = NAME) -> str:
        """A call that activates."""
        return self.call(name, f"{TEST}.Echo", "string:hello")

    def verb(self, *argv: str) -> str:
        """What a verb of ours says of this bus."""
        command: list[str | Path] = [self.place.user.command, *argv, f"--address={self.address}"]
        done = self.place.user.run(command, env=environ(self.place))
        return (done.stdout or done.stderr).strip()

    def said(self) -> str:
        """All that it has complained of."""
        self.complaints.seek(0)
        return self.complaints.read().decode()


@contextlib.contextmanager
def bus(place: Place, link: Path, *options: str, **changes: str) -> Iterator[Standin]:
    """Start one with options, and end it as whoever starts one does."""
    read, write = os.pipe()
    with os.fdopen(read) as output, tempfile.TemporaryFile() as complaints:
        process = place.user.popen(
            [link, f"--print-address={write}", *options],
            env=environ(place, **changes),
            pass_fds=[write],
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            cwd=place.path,
        )
        os.close(write)
        try:
            found = Standin(place, process, output.readline().strip(), complaints)
            # Its end: the descriptor is closed behind the address.
            assert output.read() == ""
            assert found.address, found.said()
            yield found
        finally:
            process.terminate()
            assert process.wait() == 0


def refused(place: Place, link: Path, *options: str, **changes: str) -> tuple[int, str]:
    """Run one that must not start."""
    done = place.user.run([link, *options], env=environ(place, **changes), cwd=place.path)
    assert done.stdout == ""
    return done.returncode, done.stderr


# -- the tools that start one ----------------------------------------------------------


def test_dbus_run_session_starts_what_it_is_told_to(place: Place, link: Path) -> None:
    place.add(NAME)
    file = config(place, "<type>session</type><listen>unix:tmpdir=/tmp</listen>")
    echo = f"/usr/bin/dbus-send --print-reply=literal --dest={NAME} / {TEST}.Echo string:hello"
    ask = f"{place.user.command} show {NAME} -p ActiveState,SubState"
    options = [f"--dbus-daemon={link}", f"--config-file={file}"]
    command = ["/bin/sh", "-c", f"{echo} && echo && {ask}; exit 7"]
    done = place.user.run(["/usr/bin/dbus-run-session", *options, *command], env=environ(place))
    assert done.stdout.split() == ["hello", "ActiveState=active", "SubState=running"]
    assert (done.returncode, done.stderr) == (7, "")


def test_dbus_run_session_starts_what_it_finds_in_path(place: Place, link: Path) -> None:
    """With --session: the directories of the user, whose descriptors nobody else may have."""
    del link
    place.add(NAME)
    (place.path / "share/dbus-1").mkdir(parents=True)
    (place.path / "share/dbus-1/services").symlink_to(place.services)
    done = place.user.run(
        ["/usr/bin/dbus-run-session", place.user.command, "start", NAME],
        env=environ(place, XDG_DATA_HOME=f"{place.path}/share"),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_gtestdbus(place: Place, link: Path, gtest_program: Path) -> None:
    place.add(NAME)
    done = place.user.run(
        [gtest_program, place.services, NAME],
        env=environ(place, G_TEST_DBUS_DAEMON=str(link), PATH=f"/usr/bin:{place.path}/engines"),
    )
    echo, listed = done.stdout.splitlines()
    assert echo == "('hello',)"
    # The answer may overtake the news of who has the name now.
    assert re.search(rf"\('{NAME}', '[^']*', '(active|activating)', [1-9]\d*\)", listed)
    assert done.returncode == 0


def test_dbus_launch_has_its_bus_in_the_background(place: Place, link: Path) -> None:
    """With the options that dbus-launch starts one with; its own program wants X11."""
    with contextlib.ExitStack() as files:
        pipes = [os.pipe(), os.pipe()]
        (pid_fd, _), (address_fd, _) = pipes
        outputs = [files.enter_context(os.fdopen(fd)) for fd in (pid_fd, address_fd)]
        options = ["--print-pid", str(pipes[0][1]), "--print-address", str(pipes[1][1])]
        starter = place.user.popen(
            [link, "--fork", *options, "--session"],
            env=environ(place),
            pass_fds=[pipe[1] for pipe in pipes],
        )
        for pipe in pipes:
            os.close(pipe[1])
        pid, address = (output.readline().strip() for output in outputs)
        assert starter.wait() == 0
        assert starter.pid != int(pid)
        gone = os.pidfd_open(int(pid))
        try:
            about = procfs.stat(int(pid))
            assert about is not None
            assert about.session == int(pid)
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
            where = f"--address={address}"
            done = place.user.run([place.user.command, "status", where], env=environ(place))
            assert done.returncode == 0, done.stderr
        finally:
            os.kill(int(pid), signal.SIGTERM)
        wait_for_end(gone)


def wait_for_end(pidfd: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        assert select.select([pidfd], [], [], 20)[0]
    finally:
        os.close(pidfd)


# -- options ------------------------------------------------------------------------------


def test_the_printed_pid_is_the_one_to_end(place: Place, link: Path) -> None:
    file = config(
        place, f"<listen>unix:path={place.path}/b</listen><pidfile>{place.path}/p</pidfile>"
    )
    process = place.user.popen(
        [link, "--nofork", "--print-pid", "--print-address", "--config-file", file],
        env=environ(place),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        address, pid = (process.stdout.readline().decode().strip() for _ in range(2))
        assert address.startswith(f"unix:path={place.path}/b,guid=")
        assert int(pid) == process.pid
        assert (place.path / "p").read_text() == f"{pid}\n"
        reason = f"the PID file {place.path}/p exists: if that bus is not running, remove the file"
        options = [f"--config-file={file}", "--address=unix:dir=/tmp"]
        for more in ([], ["--fork"]):
            answer = refused(place, link, *more, *options)
            assert answer == (6, f"dbus-activator: {reason}\n")
        process.terminate()
        assert process.wait() == 0
    assert not (place.path / "p").exists()
    assert not (place.path / "b").exists()


def test_nopidfile_and_nofork_win_over_the_file(place: Place, link: Path) -> None:
    place.add(NAME)
    file = config(place, f"<fork/><pidfile>{place.path}/p</pidfile><listen>unix:dir=/tmp</listen>")
    options = ["--nopidfile", "--nofork", "--nosyslog", "--syslog", "--syslog-only"]
    with bus(place, link, "--systemd-activation", *options, "--config-file", str(file)) as found:
        assert found.echo() == "hello"
        assert not (place.path / "p").exists()
        assert procfs.alive(found.process.pid)


def test_address_wins_over_the_file(place: Place, link: Path) -> None:
    file = config(place, "<listen>unix:path=/nonexistent/bus</listen>")
    where = f"unix:path={place.path}/mine"
    with bus(place, link, f"--config-file={file}", f"--address={where}") as found:
        assert found.address.startswith(f"{where},guid=")


def test_a_socket_of_a_supervisor(place: Place, link: Path) -> None:
    """As systemd's user unit starts one: ``--address=systemd:``."""
    file = config(place, "")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.path / "sock"))
        if place.user.uid is not None:
            os.chown(place.path / "sock", place.user.uid, -1)
        listening.listen()
        script = f'exec 3<&{listening.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"'
        options = ["--address=systemd:", f"--config-file={file}", "--print-address"]
        process = place.user.popen(
            ["/bin/bash", "-c", script, link, *options],
            env=environ(place),
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            address = process.stdout.readline().decode()
            assert address.startswith(f"unix:path={place.path}/sock,guid=")
            process.terminate()
    status, said = refused(place, link, "--address=systemd:", f"--config-file={file}")
    assert (status, said) == (
        6,
        "dbus-activator: the address systemd: needs a socket in LISTEN_FDS\n",
    )


@pytest.mark.parametrize(
    "options", [[], ["--session", "--system"], ["--session", "--config-file=x"]]
)
def test_there_is_one_configuration(place: Place, link: Path, options: list[str]) -> None:
    status, said = refused(place, link, *options)
    assert status == 2
    assert "one of --session, --system and --config-file is needed" in said


def test_the_status_of_a_failure_in_the_background(place: Place, link: Path) -> None:
    (place.path / "none").mkdir()
    file = config(place, "")
    path = f"{place.path}/link:{place.path}/none"
    status, said = refused(place, link, "--fork", f"--config-file={file}", PATH=path)
    assert status == 5
    assert said.startswith("dbus-activator: no message bus found (dbus-broker or dbus-daemon)")


def test_introspect_prints_what_the_bus_says(place: Place, link: Path) -> None:
    done = place.user.run([link, "--introspect"], env=environ(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("<!DOCTYPE node")
    assert '<interface name="org.freedesktop.DBus">' in done.stdout
    with bus(place, link, f"--config-file={config(place, '')}") as found:
        driver = "org.freedesktop.DBus"
        asked = found.call(driver, f"{driver}.Introspectable.Introspect")
        # At its own path dbus-daemon has more of them.
        assert set(re.findall("<method.*", asked)) <= set(re.findall("<method.*", done.stdout))


def test_version_does_not_say_that_it_is_dbus_daemon(place: Place, link: Path) -> None:
    done = place.user.run([link, "--version"], env=environ(place))
    assert re.fullmatch(r"dbus-activator, version \S+\n", done.stdout)


# -- the engine is never ourselves ---------------------------------------------------------

WRAPPERS = {
    "hands its arguments on": 'exec {0} "$@"',
    "knows better": "exec {0} serve --print-address",
    "has another environment": 'exec /usr/bin/env -i PATH=$PATH {0} "$@"',
}


@pytest.mark.parametrize("script", WRAPPERS.values(), ids=WRAPPERS)
def test_a_script_that_leads_back_to_us(place: Place, link: Path, script: str) -> None:
    link.unlink()
    place.write("link/dbus-daemon", f"#!/bin/sh\n{script.format(place.user.command)}\n")
    done = place.user.run(
        [place.user.command, "serve", "--engine=dbus-daemon", "--address=unix:dir=/tmp"],
        env=environ(place, PATH=f"{place.path}/link:{place.path}/engines"),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"dbus-activator: {link} is no ")
    assert "leads back to" in done.stderr
    assert "Traceback" not in done.stderr


# -- what the file says ---------------------------------------------------------------------


def test_a_name_that_the_policy_forbids(place: Place, link: Path) -> None:
    place.add(NAME)
    place.add(OTHER)
    rule = f'<policy context="default">\n<deny own="{OTHER}"/></policy>'
    file = config(place, "", f"{OPEN}{rule}")
    if place.engine == "dbus-broker":
        # It cannot be given the rule, and the other engine is not in PATH.
        status, said = refused(place, link, f"--config-file={file}")
        assert status == 5
        assert f"which the rule in {file}:8 needs" in said
        done = place.run("true", options=[f"--config-file={file}"])
        assert done.returncode == 127
        assert done.stderr.startswith(f"dbus-activator: {file}:8: dbus-broker is not given such a")
        return
    with bus(place, link, f"--config-file={file}") as found:
        assert found.echo() == "hello"
        assert found.echo(OTHER) != "hello"
        assert found.verb("show", OTHER, "-p", "Result", "--value") == "exit-code"


def test_auto_takes_the_engine_that_can_be_given_the_policy(place: Place) -> None:
    file = config(place, "", f'{OPEN}<policy context="default"><deny own="x.y"/></policy>')
    command: list[str | Path] = [
        place.user.command,
        "run",
        f"--config-file={file}",
        "--",
        place.user.command,
    ]
    argv = ["status", "--json=short"]
    done = place.user.run([*command, *argv], env=place.environ())
    assert (done.returncode, done.stderr) == (0, "")
    assert '"Engine":"dbus-daemon ' in done.stdout


def test_a_bus_of_the_system_type(place: Place, link: Path) -> None:
    script = place.write("tell", f"#!/bin/sh\nexport > {place.path}/told\nexit 3\n")
    place.add(NAME, str(script))
    place.add(OTHER)
    file = config(
        place,
        f"<listen>unix:path={place.path}/sys</listen>",
        f'{SYSTEM}<policy context="default"><allow send_destination="{NAME}"/></policy>',
    )
    # Of one that runs as somebody else nothing is started.
    place.add(BAD, str(script), extra="User=games\n")
    if place.engine == "dbus-broker":
        assert refused(place, link, f"--config-file={file}")[0] == 5
        return
    with bus(place, link, f"--config-file={file}") as found:
        # The reason comes through the policy, which allows it to nobody else.
        assert found.echo().endswith(f"Process {NAME} exited with status 3")
        told = (place.path / "told").read_text()
        assert f"DBUS_SYSTEM_BUS_ADDRESS='{found.address}'" in told
        assert "DBUS_STARTER_BUS_TYPE='system'" in told
        assert "DBUS_SESSION_BUS_ADDRESS" not in told
        assert found.verb("show", NAME, "-p", "Result", "--value") == "exit-code"
        said = found.verb("start", BAD)
        assert "is for the user 'games', and the broker does not change to another user" in said
        assert "AccessDenied" in found.echo(OTHER)


def test_other_options_win_over_the_file(place: Place) -> None:
    """``--config-file`` of ``run``: the file's time, its directories, where it listens."""
    place.add(NAME)
    (place.path / "more").mkdir()
    text = (
        f'<limit name="service_start_timeout">1500</limit><listen>unix:path={place.path}/b</listen>'
    )
    file = config(place, text)
    ask = [str(place.user.command), "status", "--json=short"]

    def run(*options: str) -> str:
        command = ["run", f"--engine={place.engine}", f"--config-file={file}"]
        argv: list[str | Path] = [place.user.command, *command, *options, "--", *ask]
        done = place.user.run(argv, env=place.environ())
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    said = run()
    assert f'"BusAddress":"unix:path={place.path}/b,guid=' in said
    assert f'"ServiceDirectories":["{place.services}"]' in said
    assert '"ActivationTimeoutUSec":1500000' in said
    said = run("--activation-timeout=3", f"--services={place.path}/more")
    assert '"ActivationTimeoutUSec":3000000' in said
    assert f'"ServiceDirectories":["{place.path}/more"]' in said
    assert f'"ServiceDirectories":["{place.services}","' in run("--standard-services")


def test_serve_listens_where_the_file_says(place: Place) -> None:
    text = (
        f"<listen>unix:path={place.path}/b</listen>\n<listen>unix:path={place.path}/c</listen><x/>"
    )
    file = config(place, text)
    command: list[str | Path] = [
        place.user.command,
        "serve",
        f"--engine={place.engine}",
        f"--config-file={file}",
    ]
    process = place.user.popen(
        [*command, "--print-address"],
        env=place.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"unix:path={place.path}/b,guid=")
    process.terminate()
    _, said = process.communicate()
    assert said.splitlines() == [
        f"dbus-activator: {file}:3: unknown element <x>",
        f"dbus-activator: {file}:3: not used: one <listen> is enough",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<listen>tcp:host=localhost</listen>", "2: cannot listen on tcp:host=localhost"),
        ("<listen>nonsense</listen>", "2: not a D-Bus address: 'nonsense'"),
        ("<policy/>", "2: <policy> needs one of"),
        ("<include>none</include>", "2: {0}/none: No such file or directory"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "serve"])
def test_a_file_that_cannot_be_used(place: Place, verb: str, text: str, reason: str) -> None:
    file = config(place, text)
    end: dict[str, Any] = {"run": (["--", "true"], 127), "serve": ([], 6)}
    rest, status = end[verb]
    command = [place.user.command, verb, f"--config-file={file}", *rest]
    done = place.user.run(command, env=place.environ())
    assert done.stderr.startswith(f"dbus-activator: {file}:{reason.format(place.path)}")
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == status
