"""Our connections to the bus are cut, one after the other and all at once: nothing else is lost.

dbus-broker does that to a client whose user's quota is used up, by whomever.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from tests.aio_client import BUS_NAME, Client
from tests.integration.buses import TEST, open_fifo, standing_still

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE = f"{TEST}.One", f"{TEST}.Two", f"{TEST}.Three"
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


def cut(bus: Bus) -> int:
    """Shut down every socket that the broker has connected to its bus; how many there were."""
    pidfd = os.pidfd_open(bus.pid)
    found = 0
    for name in os.listdir(f"/proc/{bus.pid}/fd"):
        if not os.readlink(f"/proc/{bus.pid}/fd/{name}").startswith("socket:"):
            continue
        fd = _libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        with socket.socket(fileno=fd) as sock:
            try:
                peer = sock.getpeername()
            except OSError:
                continue  # one that listens
            if peer == f"{bus.place.path}/bus":
                sock.shutdown(socket.SHUT_RDWR)
                found += 1
    os.close(pidfd)
    return found


async def owner(bus: Bus) -> str:
    """Of the broker's name; empty for none."""
    try:
        (found,) = await bus.client.bus.call_bus("GetNameOwner", "s", [BUS_NAME])
    except RemoteError:
        return ""
    return str(found)


async def until_served(bus: Bus, before: str) -> None:
    """Return when the broker's objects are on another connection."""
    while await owner(bus) in ("", before):
        pass
    await bus.client.call("ListServices")


async def test_all_goes_on(place: Place) -> None:
    """What is active stays, what is under way ends as it should, also what ended meanwhile."""
    place.add(ONE)
    place.add(TWO, f"{place.service} -d -w {place.fifo('two')} {TWO}")
    place.add(THREE, f"{place.service} -x 3 -w {place.fifo('three')} {THREE}")
    async with place.serve() as bus:
        await bus.echo(ONE)
        calls = [asyncio.create_task(bus.call(each, "Echo", "s", each)) for each in (TWO, THREE)]
        for each in (TWO, THREE):
            await bus.state(each, "start")
        pid = await bus.get(ONE, "MainPID")
        before = await owner(bus)
        with standing_still(bus.engine):
            assert cut(bus) >= 2
            # The broker cannot be told of any name now, and hears of these by the kernel.
            os.kill(pid, signal.SIGKILL)
            for each in ("two", "three"):
                (await open_fifo(place.path / each, "w")).close()
        await until_served(bus, before)
        two, three = await asyncio.gather(*calls, return_exceptions=True)
        assert two == TWO
        assert isinstance(three, Exception)
        assert await bus.state(ONE, "failed")
        assert await bus.get(ONE, "Result", "MainPID") == ("signal", 0)
        assert await bus.state(TWO, "running")
        assert await bus.state(THREE, "failed")
        assert await bus.get(THREE, "Result", "ExecMainStatus") == ("exit-code", 3)
        # Requests, failures and names are heard of as before.
        assert await bus.echo(ONE) == "hello"
        os.kill(await bus.get(ONE, "MainPID"), signal.SIGKILL)
        await bus.state(ONE, "failed")
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        assert bus.status == 0
        assert "Traceback" not in said
        assert said.count("there is a new one") >= 2


async def test_as_often_as_it_happens(place: Place) -> None:
    place.add(ONE)
    async with place.serve() as bus:
        for _ in range(5):
            assert await bus.echo(ONE) == "hello"
            before = await owner(bus)
            cut(bus)
            await until_served(bus, before)
            await bus.client.call("StopService", "s", ONE)
            assert await bus.get(ONE, "SubState", "Owner") == ("dead", "")
        assert await bus.get(ONE, "NActivations", "NFailures") == (5, 0)


async def test_we_own_our_name_again_after_another_client_took_it(place: Place) -> None:
    place.add(ONE)
    async with place.serve() as bus:
        await bus.echo(ONE)
        before = await owner(bus)
        thief = await Client.connect(bus.address)
        with standing_still(bus.pid):
            cut(bus)
            while (await thief.bus.call_bus("RequestName", "su", [BUS_NAME, 4]))[0] != 1:
                pass  # until the bus has noticed
        await thief.bus.call_bus("ReleaseName", "s", [BUS_NAME])
        await thief.__aexit__(None, None, None)
        await until_served(bus, before)
        assert await bus.get(ONE, "SubState") == "running"
