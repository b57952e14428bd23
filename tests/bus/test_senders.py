"""The senders of answers and signals are checked, in both connections and on both buses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.bus import address, wire
from broker.bus.blocking import BlockingConnection
from broker.bus.codec import Message
from broker.bus.connection import Connection
from broker.errors import RemoteError
from tests.aio_client import BUS_NAME, ROOT, Client, Signal
from tests.bus.peer import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.errors import DBusError

NAME = "org.example.Owned"
ANY = ("/", "org.example.Any", "Any")


class Stranger(BlockingConnection):
    """A client that owns nothing, and sends what others should."""

    def forge_answers(self, to: str) -> None:
        """Answer the first calls of a connection; they have left the bus when this returns."""
        for serial in range(1, 20):
            fields = {"reply_serial": serial, "destination": to}
            self._serial += 1
            self._write(wire.encode(wire.RETURN, self._serial, "s", ("forged",), **fields))
        self.call_bus("GetId")

    def send_signal(self, to: str, member: str = "Any") -> None:
        """A signal of our own; empty for everybody."""
        fields = {"path": ROOT, "interface": "org.example.Any", "member": member}
        if to:
            fields["destination"] = to
        self._serial += 1
        self._write(wire.encode(wire.SIGNAL, self._serial, "", (), **fields))
        self.call_bus("GetId")


@pytest.fixture
def stranger(bus: str) -> Iterator[Stranger]:
    """Neither the victim nor the owner."""
    with Stranger.connect(bus) as connection:
        yield connection


@pytest.fixture
def owner(bus: str) -> Iterator[Stranger]:
    """Owns the name; it refuses every call when it waits."""
    with Stranger.connect(bus) as connection:
        assert connection.call_bus("RequestName", "su", NAME, 0) == [1]
        yield connection


@pytest.mark.parametrize("by_name", [True, False], ids=["name", "unique"])
def test_a_forged_answer_is_ignored(
    bus: str, owner: Stranger, stranger: Stranger, *, by_name: bool
) -> None:
    with BlockingConnection.connect(bus) as victim:
        serial = victim.send(NAME if by_name else owner.unique_name, *ANY)
        victim.call_bus("GetId")  # the call is with its destination by now
        stranger.forge_answers(victim.unique_name)
        victim.call_bus("GetId")
        assert not victim.answered(serial)
        owner.call_bus("GetId")
        with pytest.raises(RemoteError, match="serves no objects") as caught:
            victim.reply(serial, PATIENCE)
        assert caught.value.sender == owner.unique_name


@pytest.mark.asyncio
async def test_a_forged_answer_is_ignored_in_a_loop(
    bus: str, owner: Stranger, stranger: Stranger
) -> None:
    victim = await Connection.to_bus(address.connect(bus))
    answer: asyncio.Future[Message | DBusError] = asyncio.get_running_loop().create_future()
    victim.request(Message(NAME, *ANY), answer.set_result)
    await victim.call_bus("GetId")
    stranger.forge_answers(victim.unique_name)
    await victim.call_bus("GetId")
    assert not answer.done()
    owner.call_bus("GetId")
    async with asyncio.timeout(PATIENCE):
        assert "serves no objects" in str(await answer)
    victim.close()
    await victim.wait_closed()


def test_answers_come_from_each_owner_in_turn(
    bus: str, owner: Stranger, stranger: Stranger
) -> None:
    """The one that had the name before is a stranger then."""
    with BlockingConnection.connect(bus) as victim:
        for first, second in ((owner, stranger), (stranger, owner)):
            serial = victim.send(NAME, *ANY)
            victim.call_bus("GetId")
            first.call_bus("GetId")
            with pytest.raises(RemoteError, match="serves no objects"):
                victim.reply(serial, PATIENCE)
            assert victim.owner(NAME) == first.unique_name
            first.call_bus("ReleaseName", "s", NAME)
            second.call_bus("RequestName", "su", NAME, 0)
            victim.call_bus("GetId")  # it has heard of that
            serial = victim.send(NAME, *ANY)
            victim.call_bus("GetId")
            first.forge_answers(victim.unique_name)
            victim.call_bus("GetId")
            assert not victim.answered(serial)
            second.call_bus("GetId")
            with pytest.raises(RemoteError, match="serves no objects"):
                victim.reply(serial, PATIENCE)


def test_a_signal_of_nobody_that_is_heard(bus: str, owner: Stranger, stranger: Stranger) -> None:
    with BlockingConnection.connect(bus) as victim:
        victim.hear(NAME)
        victim.call_bus("AddMatch", "s", f"type='signal',sender='{NAME}'")
        stranger.send_signal(victim.unique_name, "Forged")
        owner.send_signal(victim.unique_name, "Ours")
        owner.send_signal("", "All")
        owner.call_bus("ReleaseName", "s", NAME)
        owner.send_signal(victim.unique_name, "Late")
        stranger.call_bus("RequestName", "su", NAME, 0)
        stranger.send_signal("", "New")
        found = []
        while "New" not in found:
            signal = victim.signal(None)
            assert signal is not None
            if not signal.member.startswith("Name"):  # the bus's own
                found.append(signal.member)
        assert found == ["Ours", "All", "New"]


@pytest.mark.asyncio
async def test_a_client_in_a_loop_hears_the_broker_alone(
    bus: str, owner: Stranger, stranger: Stranger
) -> None:
    owner.call_bus("RequestName", "su", BUS_NAME, 0)
    heard: list[Signal] = []
    async with await Client.connect(bus) as client:
        await client.subscribe(heard.append)
        for sender in (stranger, owner):
            sender.send_signal(client.bus.unique_name, "Any")
        await client.bus.call_bus("GetId")
    assert [each.member for each in heard] == ["Any"]
