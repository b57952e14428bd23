"""Events that come on different channels may come in any order.

The engine asks for services on one connection and tells of names on another, and
the kernel tells of ends on a third way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest

from broker.bus import address
from broker.bus.codec import Message, encode
from broker.bus.connection import Connection
from broker.errors import DBusError, RemoteError
from broker.process import procfs
from tests.aio_client import BUS_NAME, MANAGER, ROOT
from tests.integration.buses import TEST, is_readable, standing_still

if TYPE_CHECKING:
    import socket

    from tests.integration.buses import Bus, Place

NAME: Final = "late.activation.Fails"
OTHER: Final = f"{TEST}.Missing"
DRIVER: Final = "org.freedesktop.DBus"
# Each of these is told of the name before the broker is, which takes longer than the
# broker takes to start a service: their rule is like its own, and older.
LISTENERS: Final = 400
RULE: Final = (
    f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='NameOwnerChanged',"
    "path='/org/freedesktop/DBus',arg0namespace='late'"
)
TURNS: Final = 20


def of_driver(member: str, signature: str = "", *body: object) -> Message:
    """A call of the bus itself."""
    path = "/org/freedesktop/DBus"
    return Message(DRIVER, path, DRIVER, member, signature=signature, body=list(body))


def listener(bus: Bus) -> socket.socket:
    """A client that never reads: the kernel buffers its messages."""
    sock = address.connect(bus.address)
    calls = [of_driver("Hello"), of_driver("AddMatch", "s", RULE)]
    for serial, each in enumerate(calls, 1):
        each.serial = serial
    sock.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + b"".join(map(encode, calls)))
    return sock


def until_reaped(pid: int, parent: int) -> None:
    """Return when a process is not even a zombie, and its parent has nothing more to do."""
    while procfs.stat(pid) or ((about := procfs.stat(parent)) and about.state != "S"):
        pass


@pytest.mark.asyncio
async def test_a_name_that_was_taken_and_lost_before_it_was_asked_for(place: Place) -> None:
    """A client takes and gives up the name of a service that fails, and then calls it."""
    place.add(OTHER, "/nonexistent")
    async with place.serve() as bus:
        client = await Connection.to_bus(address.connect(bus.address))
        with contextlib.ExitStack() as stack:
            for _ in range(LISTENERS):
                stack.enter_context(listener(bus))
            place.add(NAME, f"{place.service} -x 3 {NAME}")
            await bus.client.call("Reload")
            for _ in range(TURNS):
                answer: asyncio.Future[Message | DBusError] = asyncio.Future()
                with client.corked():
                    # So that the engine has something for the broker before all else.
                    client.send(Message(OTHER, "/", TEST, "Echo"))
                    client.send(of_driver("RequestName", "su", NAME, 4))
                    client.send(of_driver("ReleaseName", "s", NAME))
                    client.request(Message(NAME, "/", TEST, "Echo"), answer.set_result)
                async with asyncio.timeout(10):
                    assert isinstance(await answer, RemoteError)
                await bus.client.call("ResetFailed", "s", "")
        client.close()
        await client.wait_closed()


@pytest.mark.asyncio
async def test_a_stop_that_comes_when_only_the_name_is_left(place: Place) -> None:
    """The process is dead and reaped, and the bus has not said yet that its name is free."""
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        pid = await bus.get(NAME, "MainPID")
        # Whose calls it may take is known from here on: the engine will not be asked.
        await bus.client.call("ResetFailed", "s", NAME)
        answer: asyncio.Future[Message | DBusError] = asyncio.Future()
        stop = Message(BUS_NAME, ROOT, MANAGER, "StopService", signature="s", body=[NAME])
        with standing_still(bus.pid):
            bus.client.bus.request(stop, answer.set_result)
            await bus.client.bus.call_bus("GetId")  # it has been passed on
            with standing_still(bus.engine):
                fd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                assert is_readable(fd, 10)
                os.close(fd)
                bus.kill(signal.SIGCONT)
                await asyncio.to_thread(until_reaped, pid, bus.pid)
        assert isinstance(await answer, Message)
        assert await bus.get(NAME, "SubState", "Result") == ("failed", "signal")
        assert await bus.echo(NAME) == "hello"
