"""``serve``: addresses, readiness, reload, and refusals with the right status."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.aio_client import Client
from tests.integration import buses

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Installation, Place

NAME = "org.activation.Test.One"
ROOT = "/org/activation/Broker1"


def refused(place: Place, *options: str, **environ: str) -> tuple[int, str]:
    """Run ``serve``, which must not start; its exit status and what it says."""
    done = place.user.run(
        [place.user.command, "serve", f"--engine={place.engine}", *options],
        env=place.environ(**environ),
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.asyncio
async def test_the_address_is_printed_when_clients_are_served(place: Place) -> None:
    async with place.serve() as bus:
        # The descriptor was closed after the line: Bus read to the end.
        assert re.fullmatch(rf"unix:path={place.path}/bus,guid=[0-9a-f]{{32}}", bus.address)
        manager = "org.activation.Broker1.Manager"
        assert await bus.client.get(ROOT, manager, "BusAddress") == bus.address
        assert (await bus.client.get(ROOT, manager, "Engine")).split()[0] == place.engine
        assert await bus.client.get(ROOT, manager, "Subreaper") is True
    assert not (place.path / "bus").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("form", ["unix:abstract={0}", "unix:dir={0}", "unix:tmpdir={0}"])
async def test_other_forms_of_address(place: Place, form: str) -> None:
    place.add(NAME)
    async with place.serve("--address=" + form.format(place.path)) as bus:
        assert await bus.echo(NAME) == "hello"


@pytest.mark.asyncio
async def test_an_address_in_use_is_refused_and_its_bus_lives_on(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        status, text = await asyncio.to_thread(
            refused, place, f"--address=unix:path={place.path}/bus"
        )
        assert status == 6
        assert f"cannot listen on unix:path={place.path}/bus: Address already in use" in text
        assert await bus.echo(NAME) == "hello"


@pytest.mark.asyncio
async def test_a_socket_that_nobody_serves_is_replaced(place: Place) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(place.path / "bus"))
    stale.close()
    if place.user.uid is not None:
        os.chown(place.path / "bus", place.user.uid, -1)
    async with place.serve():
        pass


@pytest.mark.parametrize(
    ("address", "status", "text"),
    [
        ("nonsense", 6, "--address: not a D-Bus address: 'nonsense'"),
        ("unix:path=%zz", 6, "--address: not a D-Bus address"),
        ("tcp:host=localhost", 6, "cannot listen on tcp:host=localhost: use unix:path=PATH"),
        ("unix:path=/a;unix:path=/b", 6, "a list of addresses is not supported"),
        ("unix:path=/nonexistent/bus", 6, "No such file or directory"),
        ("unix:path={0}/file", 6, "the file is not a socket"),
        ("unix:path=/" + "x" * 110, 6, "longer than 107 bytes"),
    ],
)
def test_bad_addresses(place: Place, address: str, status: int, text: str) -> None:
    place.write("file", "", mode=0o666)
    found, said = refused(place, f"--address={address.format(place.path)}")
    assert text in said
    assert said.startswith("dbus-activator: ")
    assert found == status


def test_a_place_that_may_not_be_written_is_4(ordinary: Installation, place: Place) -> None:
    if place.user.uid is None and os.geteuid() == 0:
        place.user = ordinary  # root may write everywhere
    status, text = refused(place, "--address=unix:path=/usr/bus")
    assert status == 4
    assert "Permission denied" in text


@pytest.fixture
def foreign(place: Place) -> str:
    """Another user's runtime directory, as ``su`` and ``sudo -E`` leave it to us."""
    if place.user.uid is not None or os.geteuid() != 0:
        return "/run"
    path = place.path / "runtime"
    path.mkdir(mode=0o700)
    os.chown(path, buses.NOBODY, buses.NOBODY)
    return str(path)


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
def test_the_runtime_directory_of_another_user_is_not_used(place: Place, foreign: str) -> None:
    """Their programs would find our bus there, and would not be let in."""
    owner, own = os.stat(foreign).st_uid, place.user.uid or os.geteuid()
    reason = (
        f"dbus-activator: XDG_RUNTIME_DIR {foreign} belongs to uid {owner}, and we are uid {own}: "
        "unset it, as su and sudo do for a new session, or use --address\n"
    )
    listen = "<listen>unix:runtime=yes</listen>"
    file = place.write("runtime.conf", f"<busconfig>\n{listen}</busconfig>", mode=0o644)
    for options in ([], ["--address=unix:runtime=yes"], [f"--config-file={file}"]):
        assert refused(place, *options, XDG_RUNTIME_DIR=foreign) == (4, reason)
    # A bus for one command has its place elsewhere.
    done = place.run(
        "sh", "-c", "echo $DBUS_SESSION_BUS_ADDRESS", env=place.environ(XDG_RUNTIME_DIR=foreign)
    )
    assert done.stdout.startswith("unix:path=/tmp/dbus-activator-"), done.stderr
    assert not [each for each in os.listdir(foreign) if each.startswith(("bus", "dbus-activator"))]


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
def test_a_relative_runtime_directory_is_ignored(place: Place) -> None:
    """As the XDG Base Directory Specification says; it would be another one in each program."""
    environ = place.environ(XDG_RUNTIME_DIR="services")
    done = place.run("sh", "-c", "echo $DBUS_SESSION_BUS_ADDRESS", env=environ)
    assert done.stdout.startswith("unix:path=/tmp/dbus-activator-"), done.stderr
    command: list[str | Path] = [place.user.command, "list"]
    asked = place.user.run(command, env=environ, cwd=place.path)
    ignored = "XDG_RUNTIME_DIR is ignored, as it is not an absolute path: 'services'"
    assert asked.stderr == (
        f"dbus-activator: no bus: DBUS_SESSION_BUS_ADDRESS is not set, and {ignored}\n"
    )
    serving = place.user.popen(
        [place.user.command, "serve", f"--engine={place.engine}", "--print-address"],
        env=environ,
        cwd=place.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    assert serving.stdout.readline().startswith("unix:path=/tmp/dbus-activator-")
    serving.terminate()
    assert serving.communicate()[1] == f"dbus-activator: {ignored}\n"
    assert list(place.services.iterdir()) == []
    status, text = refused(place, "--address=unix:runtime=yes", XDG_RUNTIME_DIR="services")
    assert (status, text) == (
        6,
        "dbus-activator: --address: unix:runtime=yes needs XDG_RUNTIME_DIR, an absolute path\n",
    )


@pytest.mark.parametrize(
    ("option", "status", "text"),
    [
        ("--services=/nonexistent", 6, "--services: /nonexistent: no such directory"),
        ("--print-address=99", 6, "cannot print on descriptor 99: Bad file descriptor"),
        ("--lifeline=99", 6, "cannot use descriptor 99: Bad file descriptor"),
        ("--lifeline=0", 6, "cannot use descriptor 0: not a pipe or pidfd"),
        ("--stop-timeout=-1", 2, "--stop-timeout"),
        ("--activation-timeout=0", 2, "--activation-timeout"),
        ("--engine=none", 2, "--engine"),
        ("--no-such-option", 2, "No such option"),
        ("argument", 2, "unexpected extra argument"),
    ],
)
def test_bad_options(place: Place, option: str, status: int, text: str) -> None:
    found, said = refused(place, option)
    assert text in said
    assert found == status


@pytest.mark.parametrize("kind", ["pipe", "pidfd"])
def test_a_broker_ends_with_its_lifeline(place: Place, kind: str) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    holder = place.user.popen(["cat"], stdin=subprocess.PIPE)
    assert holder.stdin is not None
    lifeline, line = os.pipe()
    if kind == "pidfd":
        os.close(lifeline)
        lifeline = os.pidfd_open(holder.pid)
    read, write = os.pipe()
    command = [str(place.user.command), "serve", f"--engine={place.engine}"]
    options = [f"--lifeline={lifeline}", f"--services={place.services}", f"--print-address={write}"]
    broker = place.user.popen(
        [*command, *options], env=place.environ(), cwd=place.path, pass_fds=[lifeline, write]
    )
    for fd in (lifeline, write):
        os.close(fd)
    with os.fdopen(read) as output:
        address = output.readline().strip()
    busctl = ["busctl", f"--address={address}", "call", NAME, "/", "org.activation.Test"]
    assert place.user.run([*busctl, "Echo", "s", "hello"]).stdout == 's "hello"\n'
    below = [broker.pid]
    for pid in below:
        below += procfs.children_of(pid)
    if kind == "pipe":
        os.write(line, b"what is written does not matter")
    assert broker.poll() is None
    # The end of one of them is the broker's end, and of nothing else.
    holder.stdin.close()
    holder.wait()
    os.close(line)
    assert broker.wait(30) == 0
    assert len(below) >= 3
    assert [pid for pid in below if procfs.alive(pid)] == []


def test_no_engine_installed_is_5_and_names_the_packages(place: Place) -> None:
    done = place.user.run([place.user.command, "serve"], env=place.environ(PATH="/nonexistent"))
    assert done.returncode == 5, done.stderr
    for word in ("dbus-broker", "dbus-daemon", "Debian", "Fedora", "Arch", "Alpine", "Void"):
        assert word in done.stderr


def test_an_engine_that_is_too_old_is_refused(place: Place) -> None:
    old = place.path / "bin"
    old.mkdir(mode=0o755)
    script = place.write("bin/dbus-broker", "#!/bin/sh\necho dbus-broker 29\n")
    done = place.user.run(
        [place.user.command, "serve", "--engine=dbus-broker"],
        env=place.environ(PATH=f"{script.parent}:/usr/bin:/bin"),
    )
    assert done.returncode == 5
    assert "dbus-broker 29 is too old: 30 or newer is needed" in done.stderr


def test_an_engine_that_does_not_start_is_told_with_its_reason(place: Place) -> None:
    (place.path / "bin").mkdir(mode=0o755)
    script = place.write(
        f"bin/{place.engine}",
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "dbus-broker 33"; echo "D-Bus Message Bus Daemon 1.14";;\n'
        "*) echo the reason is this >&2; exit 1;; esac\n",
    )
    done = place.user.run(
        [place.user.command, "serve", f"--engine={place.engine}"],
        env=place.environ(PATH=f"{script.parent}:/usr/bin:/bin"),
    )
    assert done.returncode == 1
    assert "the reason is this" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.asyncio
async def test_a_passed_socket_and_a_supervisor_that_is_told(place: Place) -> None:
    place.add(NAME)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place.path / "passed"))
    (place.path / "passed").chmod(0o666)
    listening.listen()
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(place.path / "notify"))
    (place.path / "notify").chmod(0o666)
    notified.settimeout(20)
    # LISTEN_PID must be that of serve: a shell becomes it.
    process = place.user.popen(
        [
            "sh",
            "-c",
            f'exec 3<&{listening.fileno()}; LISTEN_PID=$$ exec "$@"',
            "sh",
            str(place.user.command),
            "serve",
            f"--engine={place.engine}",
            f"--services={place.services}",
        ],
        env=place.environ(LISTEN_FDS="1", NOTIFY_SOCKET=str(place.path / "notify")),
        pass_fds=[listening.fileno()],
        executable="/bin/bash",
    )
    try:
        assert await asyncio.to_thread(notified.recv, 100) == b"READY=1"
        async with await Client.connect(f"unix:path={place.path}/passed") as client:
            (environment,) = await client.bus.call(NAME, "/", "org.activation.Test", "Environment")
            names = {entry.partition("=")[0] for entry in environment}
            assert not names & {"LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"}
        process.terminate()
        assert await asyncio.to_thread(notified.recv, 100) == b"STOPPING=1"
        assert await asyncio.to_thread(process.wait) == 0
        assert (place.path / "passed").exists()
    finally:
        process.kill()
        process.wait()
        listening.close()
        notified.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["Reload", "ReloadConfig", "SIGHUP"])
async def test_reload_finds_new_changed_and_vanished_descriptors(place: Place, way: str) -> None:
    gone, changed, new = f"{NAME}.Gone", f"{NAME}.Changed", f"{NAME}.New"
    place.add(gone)
    place.add(changed, "/bin/false")
    async with place.serve() as bus:
        (place.services / f"{gone}.service").unlink()
        place.add(changed)
        place.add(new)
        if way == "Reload":
            await bus.client.call("Reload")
        elif way == "ReloadConfig":
            await bus.client.bus.call_bus("ReloadConfig")
        else:
            bus.kill(signal.SIGHUP)
        async for each in bus.signals():
            if each.member == "InterfacesAdded" and each.body[0].endswith("New"):
                break
        # The engine hears of it in a moment; it says when.
        async with asyncio.timeout(20):
            while True:
                (names,) = await bus.client.bus.call_bus("ListActivatableNames")
                if new in names and gone not in names:
                    break
        assert await bus.echo(new) == "hello"
        assert await bus.echo(changed) == "hello"
        with pytest.raises(RemoteError) as caught:
            await bus.echo(gone)
        assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"


@pytest.mark.asyncio
async def test_a_running_service_outlives_its_descriptor(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        pid = await bus.get(NAME, "MainPID")
        (place.services / f"{NAME}.service").unlink()
        await bus.client.call("Reload")
        assert await bus.get(NAME, "MainPID") == pid
        assert await bus.echo(NAME) == "hello"
        await bus.client.call("StopService", "s", NAME)
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("GetService", "s", NAME)
        assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
        async for each in bus.signals():
            if each.member == "InterfacesRemoved":
                assert each.body[1] == ["org.activation.Broker1.Service"]
                break
