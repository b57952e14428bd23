"""The engine asks on one connection and tells of names on another: either may come first."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import pytest

from broker.bus import address
from broker.bus.codec import Message, encode
from broker.bus.connection import Connection
from broker.errors import Outcome, RemoteError
from tests.integration.buses import TEST

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
    """A client that never reads: the system holds what it is told."""
    sock = address.connect(bus.address)
    calls = [of_driver("Hello"), of_driver("AddMatch", "s", RULE)]
    for serial, each in enumerate(calls, 1):
        each.serial = serial
    sock.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + b"".join(map(encode, calls)))
    return sock


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
                answer: asyncio.Future[Message | Outcome] = asyncio.Future()
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
