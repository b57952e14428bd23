"""Hundreds of services at once, and the end of a session with all of them."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from broker.errors import DBusError
from broker.process import procfs
from tests.integration.buses import open_fifo

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAMES = [f"org.activation.Test.S{number}" for number in range(200)]


def below(bus: Bus) -> set[int]:
    """Everything alive below the broker, found without the broker's help."""
    return set(bus.tree())


async def test_200_activations_at_once(place: Place) -> None:
    for number, name in enumerate(NAMES):
        # Every other one daemonizes, every fourth leaves an orphan besides.
        flags = ["", "-d", "-l", "-d -l"][number % 4]
        place.add(name, f"{place.service} {flags} {name}")
    async with place.serve() as bus:
        answers = await asyncio.gather(*(bus.echo(name, name) for name in NAMES))
        assert answers == NAMES
        snapshot = await bus.client.snapshot()
        services = {each["Name"]: each for each in snapshot.services.values()}
        for number, name in enumerate(NAMES):
            service = services[name]
            assert len(service["PIDs"]) == (2 if number % 4 >= 2 else 1)
            main = procfs.stat(service["MainPID"])
            assert main is not None
            assert main.ppid == bus.pid
        every = {pid for service in services.values() for pid in service["PIDs"]}
        assert len(every) == 300
        tree = below(bus)
        assert len(tree - every) == 1  # the engine
        await bus.client.call("Exit")
        await bus.ended()
        assert bus.status == 0
        assert [pid for pid in tree if procfs.alive(pid)] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serve_and_everything(place: Place, number: signal.Signals) -> None:
    names = NAMES[:5]
    for name in names:
        place.add(name, f"{place.service} -d -l {name}")
    async with place.serve() as bus:
        await asyncio.gather(*(bus.echo(name) for name in names))
        tree = below(bus)
        assert len(tree) == 11
        bus.kill(number)
        await bus.ended()
        assert bus.status == 0
        assert [pid for pid in tree if procfs.alive(pid)] == []


async def test_a_service_that_ignores_sigterm_is_killed(place: Place) -> None:
    script = place.write(
        "stubborn", "#!/bin/sh\ntrap '' TERM\necho >gate\nsleep 1000 & wait; wait\n"
    )
    fifo = place.fifo("gate")
    place.add(NAMES[0], str(script))
    async with place.serve("--stop-timeout=0.2") as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", NAMES[0]))
        gate = await open_fifo(fifo, "rb")
        await asyncio.to_thread(gate.read)
        gate.close()
        await bus.client.call("StopService", "s", NAMES[0])
        assert await bus.get(NAMES[0], "PIDs", "ExecMainStatus") == ([], 9)
        with pytest.raises(Exception, match="was stopped before"):
            await start


async def test_a_process_that_cannot_be_ended_is_named(place: Place) -> None:
    """One that became root for good, below an ordinary user's broker."""
    if place.user.uid is None:
        return  # nothing is beyond root, and a user cannot make such a program
    program = place.path / "setuid"
    shutil.copy(place.service, program)
    program.chmod(0o4755)
    # It takes no name: it could not connect, as another user than the bus's.
    fifo = place.fifo("gate")
    place.add(NAMES[0], f"{program} -u -w {fifo} -x 0 {NAMES[0]}")
    async with place.serve("--stop-timeout=0.1", "--output=null") as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", NAMES[0]))
        gate = await open_fifo(fifo, "wb")
        try:
            (pid,) = await bus.get(NAMES[0], "PIDs")
            bus.kill(signal.SIGTERM)
            said = await bus.ended()
            assert f"processes that cannot be ended are left: [{pid}]" in said
            assert bus.status == 0
            assert procfs.alive(pid)
        finally:
            gate.close()  # which lets it go
        with pytest.raises(DBusError):
            await start
