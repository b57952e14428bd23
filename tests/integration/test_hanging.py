"""Disks that do not answer: a program on one costs its own activation, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import Disconnected, RemoteError
from broker.process import procfs
from tests.fuse import Fuse
from tests.integration import buses
from tests.integration.worlds import has_signal, wrap_in_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.buses import Bus, Place

NAME = "org.activation.Test.Away"
OTHERS = ["org.activation.Test.One", "org.activation.Test.Other"]


def away(place: Place, fuse: Fuse, *lines: str) -> Path:
    """Where the file system is, for the broker and what it starts."""
    directory = place.path / "away"
    wrap_in_mounts(place, fuse.mount_command(directory), *lines)
    return directory


@pytest.fixture
def hung() -> Iterator[Fuse]:
    """A file system that does not answer; what waits for it can be killed."""
    with Fuse(answers=None) as fuse:
        yield fuse


@pytest.fixture
def hung_for_good() -> Iterator[Fuse]:
    """A file system that keeps what waits for it from ending."""
    with Fuse(answers=False) as fuse:
        yield fuse


async def starting(bus: Bus, name: str) -> asyncio.Task[Any]:
    """A client that waits for a service, which has a process already."""
    call = asyncio.create_task(bus.client.call("StartService", "s", name))
    await bus.state(name, "start")
    return call


@pytest.mark.asyncio
async def test_a_program_that_hangs_costs_its_activation(place: Place, hung: Fuse) -> None:
    place.add(NAME, str(away(place, hung) / "program"))
    for name in OTHERS:
        place.add(name)
    async with place.serve("--activation-timeout=1", "--stop-timeout=20") as bus:
        call = await starting(bus, NAME)
        for name in OTHERS:
            assert await bus.echo(name) == "hello"
        pid, state = await bus.get(NAME, "MainPID", "SubState")
        assert state == "start"
        about = procfs.stat(pid)
        assert about is not None
        assert about.ppid == bus.pid
        with pytest.raises(RemoteError, match="timed out after 1 s"):
            await call
        await bus.state(NAME, "failed")
        assert await bus.get(NAME, "Result") == "timeout"
        # And once more, with the end of all in the midst of it.
        call = await starting(bus, NAME)
        tree = bus.tree()
        bus.kill(signal.SIGTERM)
        with pytest.raises(RemoteError, match="ending"):
            await call
        assert "cannot be ended" not in await bus.ended()
        assert bus.status == 0
        assert [pid for pid in tree if procfs.alive(pid)] == []


@pytest.mark.asyncio
@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
async def test_the_guardian_finds_a_program_that_hangs(place: Place, hung: Fuse) -> None:
    place.add(NAME, str(away(place, hung) / "program"))
    async with place.serve() as bus:
        call = await starting(bus, NAME)
        pid = os.pidfd_open(await bus.get(NAME, "MainPID"))
        bus.kill(signal.SIGKILL)
        await bus.ended()
        assert await asyncio.to_thread(buses.is_readable, pid, 20)
        os.close(pid)
        with pytest.raises((Disconnected, RemoteError)):
            await call


@pytest.mark.asyncio
@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_what_the_kernel_keeps_is_named_and_left(place: Place, hung_for_good: Fuse) -> None:
    place.add(NAME, str(away(place, hung_for_good) / "program"))
    place.add(OTHERS[0])
    async with place.serve("--activation-timeout=0.5", "--stop-timeout=0.5") as bus:
        call = await starting(bus, NAME)
        await asyncio.to_thread(hung_for_good.taken.wait)
        pid = await bus.get(NAME, "MainPID")
        with pytest.raises(RemoteError, match="timed out"):
            await call
        await bus.state(NAME, "stop-sigkill")
        # Whoever asks for it again does not wait for ever either.
        with pytest.raises(RemoteError, match="cannot be ended"):
            await bus.client.call("StartService", "s", NAME)
        assert await bus.echo(OTHERS[0]) == "hello"
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        assert f"processes that cannot be ended are left: [{pid}]" in said
        assert bus.status == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_the_guardian_leaves_what_the_kernel_keeps(place: Place, hung_for_good: Fuse) -> None:
    """The bus behind it and the guardian itself come to their end all the same."""
    place.add(NAME, str(away(place, hung_for_good) / "program"))
    async with place.serve("--stop-timeout=0.2") as bus:
        call = await starting(bus, NAME)
        await asyncio.to_thread(hung_for_good.taken.wait)
        hung = await bus.get(NAME, "MainPID")
        (guardian,) = buses.guardians_of(bus.pid)
        ends = [os.pidfd_open(pid) for pid in (bus.engine, guardian)]
        bus.kill(signal.SIGKILL)
        await bus.ended()
        for each in ends:
            assert await asyncio.to_thread(buses.is_readable, each, 30)
            os.close(each)
        assert procfs.alive(hung)
        with pytest.raises((Disconnected, RemoteError)):
            await call


@pytest.mark.asyncio
async def test_a_program_on_a_slow_disk_is_a_program_like_any_other(place: Place) -> None:
    files = {
        "program": f"#!/bin/sh\nexec {place.service} {NAME}\n".encode(),
        "bad": b"#!/nonexistent\n",
    }
    with Fuse(files, answers=True) as fuse:
        directory = away(place, fuse)
        place.add(NAME, f"{directory}/program")
        reasons = {"missing": "No such file or directory", "bad": "No such file or directory"}
        for name in reasons:
            place.add(f"{NAME}.{name}", f"{directory}/{name}")
        async with place.serve() as bus:
            assert await bus.echo(NAME) == "hello"
            for name, reason in reasons.items():
                service = f"{NAME}.{name}"
                with pytest.raises(RemoteError) as caught:
                    await bus.client.call("StartService", "s", service)
                assert caught.value.name == "org.freedesktop.DBus.Error.Spawn.ExecFailed"
                assert str(caught.value) == (
                    f"Failed to execute program {service}: {directory}/{name}: {reason}"
                )
                await bus.state(service, "failed")
                assert await bus.get(service, "Result", "MainPID") == ("exec-failed", 0)
                # A process was there, and is on record with how it ended.
                pid, status = await bus.get(service, "ExecMainPID", "ExecMainStatus")
                assert (pid > 0, status) == (True, 127)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
def test_a_command_that_hangs_ends_with_a_signal(
    place: Place, hung: Fuse, number: signal.Signals
) -> None:
    program = away(place, hung) / "program"
    command = place.user.popen(
        [place.user.command, "run", f"--engine={place.engine}", "--", program],
        env=place.environ(),
        cwd=place.path,
    )
    while not any(sleeps_for_good(pid) for pid in procfs.children_of(command.pid)):
        pass
    # It may have been another child, for a moment, of a Python that is still starting.
    while not has_signal(command.pid, "SigBlk", number):
        pass
    command.send_signal(number)
    assert command.wait(20) == 128 + number


def sleeps_for_good(pid: int) -> bool:
    """Whether a process is in the kernel, and waits there for a disk."""
    about = procfs.stat(pid)
    return about is not None and about.state == "D"


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("program", 5, ""),
        ("missing", 127, "Failed to execute program missing: missing: No such file or directory"),
    ],
)
def test_a_command_on_a_slow_disk_is_a_command_like_any_other(
    place: Place, command: str, status: int, said: str
) -> None:
    with Fuse({"program": b"#!/bin/sh\nexit 5\n"}, answers=True) as fuse:
        environ = place.environ()
        environ["PATH"] += f":{away(place, fuse)}"
        done = place.run(command, env=environ)
    lines = [f"dbus-activator: {said}"] if said else []
    assert (done.returncode, done.stderr.splitlines()) == (status, lines)


# -- directories of descriptors --------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_a_directory_that_falls_silent_keeps_what_it_had(place: Place) -> None:
    text = f"[D-BUS Service]\nName={NAME}\nExec={place.service} {NAME}\n"
    one, other = OTHERS
    place.add(one)
    with Fuse({f"{NAME}.service": text.encode()}, answers=True) as fuse:
        directory = away(place, fuse)
        async with place.serve(f"--services={directory}") as bus:
            assert await bus.echo(NAME) == "hello"
            await bus.client.call("StopService", "s", NAME)
            fuse.fall_silent()
            (place.services / f"{one}.service").unlink()
            place.add(other)
            reload = asyncio.create_task(bus.client.call("Reload"))
            assert await bus.echo(NAME) == "hello"
            assert not reload.done()
            async with asyncio.timeout(10):
                await reload
            assert await bus.echo(other) == "hello"
            (listed,) = await bus.client.call("ListServices")
            assert [name for name, *_ in listed] == [NAME, other]
            tree = bus.tree()
            bus.kill(signal.SIGTERM)
            said = await bus.ended()
            assert f"dbus-activator: {directory}: not read: it did not answer within 3 s" in said
            watch = f"not watched, read only on reload: {directory}: its file system may not"
            assert said.count(watch) == 1
            assert bus.status == 0
            assert [pid for pid in tree if procfs.alive(pid)] == []


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
@pytest.mark.parametrize("user", ["self"], indirect=True)
def test_a_directory_that_never_answers_keeps_no_session_from_its_start(
    place: Place, hung: Fuse
) -> None:
    directory = away(place, hung)
    place.add(NAME)
    # Nor does one in PATH, where the bus itself and the command are looked for.
    environ = place.environ()
    environ["PATH"] = f"{directory}:{environ['PATH']}"
    done = place.run("/bin/true", options=[f"--services={directory}"], env=environ)
    assert done.returncode == 0
    assert done.stderr.startswith(f"dbus-activator: {directory}: not read: it did not answer")
    assert done.stderr.count("\n") == 1
