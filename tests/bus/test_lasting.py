"""A connection that reconnects, to a server that refuses, changes and comes back."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

import pytest

from broker.bus import address
from broker.bus.lasting import LastingConnection
from broker.errors import Disconnected, NoReply, RemoteError
from tests.bus.peer import PATIENCE, Log

if TYPE_CHECKING:
    from pathlib import Path

    from broker.bus.connection import Connection

pytestmark = pytest.mark.asyncio

UID: Final = "GetConnectionUnixUser"


def lose(connection: Connection) -> None:
    """As if the bus had closed it."""
    connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 - there is no other way to it


class Taken:
    """Takes each new connection up, as it was told to; ``made`` are those that came."""

    def __init__(self) -> None:
        self.made = Log()
        self.lost = 0
        self.refusals: list[Exception] = []
        self.lasting = LastingConnection("the tests", self._take_up)
        self.lasting.on_lost = self._on_lost

    async def _take_up(self, connection: Connection) -> None:
        self.made.append(connection)
        await connection.sync()
        if self.refusals:
            raise self.refusals.pop()

    def _on_lost(self) -> None:
        self.lost += 1


async def test_it_reconnects_each_time(bus: str) -> None:
    taken = Taken()
    await taken.lasting.open(bus)
    names = set()
    for turn in range(1, 5):
        await taken.made.until_length(turn)
        async with asyncio.timeout(PATIENCE):
            await taken.lasting.up.wait()
        connection = taken.lasting.connection
        names.add(connection.unique_name)
        lose(connection)
        await connection.wait_closed()
        assert not taken.lasting.up.is_set()
        assert taken.lost == turn
    await taken.made.until_length(5)
    assert len(names) == 4
    taken.lasting.close()


async def test_what_does_not_take_it_up_gets_another_one(bus: str) -> None:
    taken = Taken()
    await taken.lasting.open(bus)
    taken.refusals = [RemoteError("org.x.Y", "no"), Disconnected("no"), NoReply("no")]
    lose(taken.lasting.connection)
    await taken.made.until_length(5)
    async with asyncio.timeout(PATIENCE):
        await taken.lasting.up.wait()
    assert [each.closed for each in taken.made] == [True] * 4 + [False]
    assert taken.lost == 1
    taken.lasting.close()


async def test_the_first_one_is_its_callers_business(bus: str) -> None:
    taken = Taken()
    taken.refusals = [RemoteError("org.x.Y", "no")]
    with pytest.raises(RemoteError, match="no"):
        await taken.lasting.open(bus)
    assert taken.lasting.connection.closed
    assert taken.lost == 0
    taken.lasting.close()


async def test_a_call_is_repeated_on_the_next_connection(bus: str) -> None:
    taken = Taken()
    await taken.lasting.open(bus)
    lose(taken.lasting.connection)
    name = taken.lasting.connection.unique_name
    # Not lost yet, as far as anyone knows.
    with pytest.raises(RemoteError):
        await taken.lasting.call_bus(UID, "s", [name])
    assert len(taken.made) == 2
    taken.lasting.close()
    with pytest.raises(Disconnected):
        await taken.lasting.call_bus(UID, "s", [name])


async def test_another_bus_in_its_place_is_none_of_ours(
    bus: str, dbus_daemon: str, dbus_broker: str, tmp_path: Path
) -> None:
    """Another bus at the same address knows nothing of our names."""
    other = ({dbus_daemon, dbus_broker} - {bus}).pop()
    link = tmp_path / "bus"
    link.symlink_to(path(bus))
    taken = Taken()
    await taken.lasting.open(f"unix:path={link}")
    link.unlink()
    link.symlink_to(path(other))
    lose(taken.lasting.connection)
    with pytest.raises(NoReply):
        await taken.lasting.call_bus(UID, "s", ["org.freedesktop.DBus"], timeout=0.2)
    assert len(taken.made) == 1
    link.unlink()
    link.symlink_to(path(bus))
    await taken.made.until_length(2)
    taken.lasting.close()


def path(where: str) -> str:
    """Of a bus's socket."""
    (entry,) = address.parse(where)
    found = entry.socket_name()
    assert isinstance(found, str | bytes)
    return found if isinstance(found, str) else found.decode()


async def test_a_server_that_takes_no_connection_holds_nothing_up(tmp_path: Path) -> None:
    """Its backlog is full: a connect that waits would stop the whole loop."""
    where = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(where)
        server.listen(0)
        with (
            address.connect(f"unix:path={where}", timeout=0.0),
            pytest.raises(Disconnected, match="temporarily"),
        ):
            address.connect(f"unix:path={where}", timeout=0.0)


async def test_a_fault_in_taking_it_up_is_heard(bus: str) -> None:
    """Everything rests on it: it must not end in a task that nobody asks."""
    faults = Log()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )
    taken = Taken()
    await taken.lasting.open(bus)
    fault = ZeroDivisionError()
    taken.refusals = [fault]
    lose(taken.lasting.connection)
    await faults.until_length(1)
    assert faults == [fault]
    taken.lasting.close()
