"""In dbus-daemon's place: for the tools that start one, and with its options."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.process import procfs
from tests.integration import buses
from tests.integration.buses import TEST
from tests.integration.standin import (
    NAME,
    bus,
    config,
    environ,
    need_the_hosts_session,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Place


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
    need_the_hosts_session(place)
    place.add(NAME)
    (place.path / "share/dbus-1").mkdir(parents=True)
    (place.path / "share/dbus-1/services").symlink_to(place.services)
    done = place.user.run(
        ["/usr/bin/dbus-run-session", place.user.command, "start", NAME],
        env=environ(place, XDG_DATA_HOME=f"{place.path}/share"),
    )
    assert (done.returncode, buses.without_the_hosts(done.stderr)) == (0, "")


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
    need_the_hosts_session(place)
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


def test_a_bus_in_the_background_holds_nothing_of_its_callers(place: Place, link: Path) -> None:
    """``A=$(dbus-daemon --session --fork --print-address=1)`` reads to the end of the pipe.

    Neither the bus, the guardian nor a service has the pipe, and nobody the script's lock;
    not even the service that was asked for before there was a bus.
    """
    place.add(NAME, f"{place.service} -d {NAME}")
    file = config(place, "")
    path = place.path / "sock"
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen()
        send = ["/usr/bin/dbus-send", f"--bus=unix:path={path}", "--print-reply=literal"]
        early = place.user.popen(
            [*send, f"--dest={NAME}", "/", f"{TEST}.Echo", "string:early"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert select.select([listening], [], [], 20)[0]
        pipes = [os.pipe() for _ in range(3)]
        outputs = [stack.enter_context(os.fdopen(read)) for read, _ in pipes]
        out, err, lock = (write for _, write in pipes)
        options = "--fork --address=systemd: --print-address=1 --print-pid=1"
        script = f'exec 3<&{listening.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" {options} $1'
        starter = place.user.popen(
            ["/bin/bash", "-c", script, link, f"--config-file={file}"],
            env=environ(place),
            pass_fds=[listening.fileno(), lock],
            stdout=out,
            stderr=err,
        )
        for fd in (out, err, lock):
            os.close(fd)
        address, pid = (outputs[0].readline().strip() for _ in range(2))
        gone = os.pidfd_open(int(pid))
        try:
            assert starter.wait() == 0
            answer, _ = early.communicate()
            assert answer.split() == ["early"]
            for output in outputs:
                assert select.select([output], [], [], 5)[0]
                assert output.read() == ""
            assert address.startswith(f"unix:path={path},guid=")
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


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
def test_the_pid_file_of_a_bus_that_was_killed_is_taken_over(place: Place, link: Path) -> None:
    """Also where its PID now belongs to our waiting starter, as after a restart."""
    path = place.path / "p"
    file = config(place, f"<listen>unix:dir=/tmp</listen><pidfile>{path}</pidfile>")
    with bus(place, link, f"--config-file={file}") as found:
        kept = place.path / "kept"
        os.link(path, kept)
    kept.rename(path)
    with bus(place, link, f"--config-file={file}") as again:
        assert path.read_text() == f"{again.process.pid}\n"
        gone = f"process {found.process.pid} has ended"
        said = f"dbus-activator: the PID file {path} is taken over: {gone}\n"
        assert again.said() == said
    script = f'echo $$ > {path}; exec "$0" --fork --print-pid --config-file={file}'
    done = place.user.run(["/bin/sh", "-c", script, link], env=environ(place), cwd=place.path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"dbus-activator: the PID file {path} is taken over: process ")
    gone_now = os.pidfd_open(int(done.stdout))
    os.kill(int(done.stdout), signal.SIGTERM)
    wait_for_end(gone_now)
    assert not path.exists()


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
