"""Namespaces of processes: the broker as the first in one, and services that make their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from broker.core.exits import CLD_EXITED, CLD_KILLED
from broker.errors import RemoteError
from broker.process import procfs
from tests.integration.buses import NOBODY, Bus, Installation, Place, remove, short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.square

NAME = "org.activation.Test.Contained"
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")
# Whoever is not root needs a namespace of users around it, which a system may refuse.
AS_USER = (*UNSHARE, "--user", "--map-current-user")
DROP = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
ROOT = os.geteuid() == 0


def can(*command: str) -> bool:
    """Whether a command succeeds."""
    done = subprocess.run([*command, "true"], check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def containers() -> list[str]:
    """The users that a broker can be the first process as: root can make a container for others."""
    if ROOT:
        return ["root", "nobody"]
    return ["self"] if can(*AS_USER) else []


def users() -> list[str]:
    """Whose services can make a namespace of their own."""
    if not ROOT:
        return ["self"] if can(*AS_USER) else []
    return ["root", "nobody"] if can(*DROP, *AS_USER) else ["root"]


@dataclass(slots=True)
class Container:
    """A place whose ``dbus-activator`` is process 1 of a namespace of its own."""

    place: Place
    nobody: bool

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[tuple[Bus, int]]:
        """A broker in there, and its PID out here."""
        async with self.place.serve() as bus:
            (pid,) = procfs.children_of(bus.pid)
            try:
                yield bus, pid
            finally:
                if bus.status is None:
                    # After a failure: unshare itself takes no SIGTERM, and all goes with this one.
                    os.kill(pid, signal.SIGKILL)

    def enter(self, pid: int, *argv: str) -> None:
        """Run a program in there, as ``docker exec`` does."""
        who = ["--user"] if not ROOT else []
        if self.nobody:
            who = [f"--setuid={NOBODY}", f"--setgid={NOBODY}"]
        subprocess.run(
            ["nsenter", f"--target={pid}", "--pid", "--mount", "--root", *who, "--", *argv],
            check=True,
        )


@pytest.fixture(params=containers())
def container(request: pytest.FixtureRequest, engine: str, c_service: Path) -> Iterator[Container]:
    """A container for each user, on each engine."""
    nobody = request.param == "nobody"
    user: Installation = request.getfixturevalue("ordinary" if nobody else "installation")
    path = short_directory(user)
    prefix = [*(UNSHARE if ROOT else AS_USER), *(DROP if nobody else ())]
    place = Place(path, user, c_service, engine)
    script = place.write("contained", f'#!/bin/sh\nexec {" ".join(prefix)} {user.command} "$@"\n')
    place.user = Installation(script)
    yield Container(place, nobody)
    remove(path)


@pytest.mark.asyncio
@pytest.mark.parametrize("sender", ["inside", "outside"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_process_serves_and_ends_when_it_is_told(
    container: Container, sender: str, number: signal.Signals
) -> None:
    """A signal that the first process of a namespace does not handle does nothing."""
    container.place.add(NAME, f"{container.place.service} -d -l {NAME}")
    async with container.serve() as (bus, pid):
        assert await bus.echo(NAME) == "hello"
        (broker,) = await bus.client.bus.call_bus(
            "GetConnectionUnixProcessID", "s", ["org.activation.Broker1"]
        )
        assert broker == 1
        # What is inside is told with the numbers that it has there.
        assert len(await bus.get(NAME, "PIDs")) == 2
        tree = bus.tree()
        if sender == "inside":
            container.enter(pid, "kill", f"-{int(number)}", "1")
        else:
            os.kill(pid, number)
        async with asyncio.timeout(30):
            assert await bus.ended() == ""
        assert bus.status == 0
        assert [each for each in tree if procfs.alive(each)] == []
        assert not (container.place.path / "bus").exists()


@pytest.mark.asyncio
async def test_orphans_of_processes_that_were_entered_are_reaped_as_nobodys(
    container: Container,
) -> None:
    container.place.add(NAME)
    fifo = container.place.fifo("release")
    async with container.serve() as (bus, pid):
        await bus.echo(NAME)
        own = await bus.get(NAME, "PIDs")
        # One of them dies while nobody has seen it, one when it is told, one stays.
        for script in ("(sh -c 'exit 8' &)", f"(sh -c 'read x <{fifo}; exit 9' &)", "sleep 1000 &"):
            container.enter(pid, "sh", "-c", script)
        fifo.write_text("\n")
        found: dict[int, Sequence[Any]] = {}
        while len(found) < 2:
            path, service, _, code, status, details = await bus.signal("ProcessExited")
            assert service == ""
            if status in (8, 9):
                found[status] = (code, details["Origin"], details["Attribution"])
        assert found == dict.fromkeys((8, 9), (CLD_EXITED, "adopted", "none"))
        assert path.startswith("/org/activation/Broker1/process/")
        await bus.client.call("StopService", "s", NAME)
        (stayed,) = [each for each in bus.tree() if procfs.command(each)[0] == "sleep"]
        assert not set(own) & set(await bus.get(NAME, "PIDs"))
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await bus.ended() == ""
        assert (bus.status, procfs.alive(stayed)) == (0, False)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -KILL $$", 128 + signal.SIGKILL),
        # To the first process, which passes it on to the command. (A child that is forked
        # behind the trap could take its own SIGTERM before it has given the trap up.)
        ("sleep 1000 & trap 'exit 42' TERM; kill -TERM 1; wait", 42),
        ("kill -TERM 1; sleep 1000 & wait", 128 + signal.SIGTERM),
        ("(sleep 1000 &); setsid sleep 1000 & exit 3", 3),
    ],
)
def test_a_commands_status_is_that_of_the_first_process(
    container: Container, script: str, status: int
) -> None:
    done = container.place.run("sh", "-c", script)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_signal_from_outside_reaches_the_command(container: Container) -> None:
    place = container.place
    place.add(NAME)
    script = f"""trap 'exit 42' TERM
        busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s hello
        sleep 1000 & wait"""
    process = place.user.popen(
        [
            place.user.command,
            "run",
            f"--engine={place.engine}",
            f"--services={place.services}",
            *("--", "sh", "-c", script),
        ],
        env=place.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == 's "hello"\n'
        (pid,) = procfs.children_of(process.pid)
        os.kill(pid, signal.SIGTERM)
        assert process.stdout.read() == ""
    assert process.wait() == 42


# -- services in namespaces of their own -------------------------------------------------


@pytest.fixture(params=users())
def boxed(request: pytest.FixtureRequest, engine: str, c_service: Path) -> Iterator[Place]:
    """A place with a service that is the first process of a namespace of its own."""
    nobody = request.param == "nobody"
    user: Installation = request.getfixturevalue("ordinary" if nobody else "installation")
    place = Place(short_directory(user), user, c_service, engine)
    prefix = UNSHARE if request.param == "root" else AS_USER
    place.add(NAME, f"/usr/bin/env {' '.join(prefix)} {c_service} -l {NAME}")
    yield place
    remove(place.path)


async def inside(bus: Bus) -> tuple[int, int, list[int]]:
    """What made the namespace, the first process in it, and all of the service."""
    assert await bus.echo(NAME) == "hello"
    everything = await bus.get(NAME, "PIDs")
    (monitor,) = [pid for pid in everything if pid in procfs.children_of(bus.pid)]
    # Inside there are its first process and the orphan of that.
    assert len(everything) == 3
    return monitor, await bus.get(NAME, "MainPID"), everything


async def exit_of(bus: Bus, pid: int) -> Sequence[Any]:
    """Service, code, status, origin and attribution of a process that has ended."""
    while True:
        _, service, ended, code, status, details = await bus.signal("ProcessExited")
        if ended == pid:
            return (service, code, status, details["Origin"], details["Attribution"])


async def end(bus: Bus, status: int) -> None:
    """Make the first process exit."""
    with pytest.raises(RemoteError) as caught:
        await bus.call(NAME, "Exit", "i", status)
    assert caught.value.name == "org.freedesktop.DBus.Error.NoReply"


@pytest.mark.asyncio
async def test_a_service_in_a_namespace_of_its_own_is_stopped(boxed: Place) -> None:
    async with boxed.serve("--stop-timeout=0.3") as bus:
        _, first, everything = await inside(bus)
        assert procfs.command(first)[0] == str(boxed.service)
        # The first process of a namespace takes no SIGTERM that it does not handle.
        await bus.client.call("StopService", "s", NAME)
        assert [pid for pid in everything if procfs.alive(pid)] == []
        assert await bus.get(NAME, "PIDs", "SubState", "MainPID") == ([], "dead", 0)
        assert await bus.echo(NAME) == "hello"


@pytest.mark.asyncio
async def test_the_insides_go_with_the_first_process(boxed: Place) -> None:
    async with boxed.serve() as bus:
        monitor, first, everything = await inside(bus)
        await end(bus, 7)
        # The first process is that one's child; its status is passed on.
        assert await exit_of(bus, monitor) == (NAME, CLD_EXITED, 7, "spawned", "spawned")
        await bus.state(NAME, "dead", "failed")
        assert [pid for pid in everything if procfs.alive(pid)] == []
        # Nothing is made up about the one that was not ours to reap.
        main = ("PIDs", "MainPID", "ExecMainPID", "ExecMainCode", "ExecMainStatus")
        assert await bus.get(NAME, *main) == ([], 0, first, 0, 0)


@pytest.mark.asyncio
async def test_the_first_process_comes_to_us_without_who_made_it(boxed: Place) -> None:
    async with boxed.serve() as bus:
        monitor, first, everything = await inside(bus)
        os.kill(monitor, signal.SIGKILL)
        assert (await exit_of(bus, monitor))[1:3] == (CLD_KILLED, signal.SIGKILL)
        assert await bus.echo(NAME) == "hello"
        assert await bus.get(NAME, "MainPID") == first
        await end(bus, 7)
        assert await exit_of(bus, first) == (NAME, CLD_EXITED, 7, "adopted", "tag")
        await bus.state(NAME, "dead", "failed")
        main = ("Result", "ExecMainPID", "ExecMainCode", "ExecMainStatus")
        assert await bus.get(NAME, *main) == ("exit-code", first, CLD_EXITED, 7)
        assert [pid for pid in everything if procfs.alive(pid)] == []
