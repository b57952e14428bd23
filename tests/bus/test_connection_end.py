"""The end of a connection: dbus-next leaves callers waiting then, and descriptors open."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import socket

import pytest

from broker.bus import address
from broker.bus.codec import Message
from broker.bus.connection import Connection
from broker.errors import DBusError, Disconnected
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log, Peer, connected, open_fds
from tests.bus.traffic import TEST, call, changed, waiting

pytestmark = pytest.mark.asyncio


# -- the end -------------------------------------------------------------------


async def test_all_calls_under_way_are_answered_when_the_peer_closes(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    log = Log()
    connection.on_closed = lambda: log.append("closed")
    calls = [call(connection, timeout=None) for _ in range(10)]
    for _ in calls:
        await peer.read()
    peer.close()
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await connection.wait_closed()
    assert [type(outcome) for outcome in outcomes] == [Disconnected] * 10
    assert waiting(connection) == 0
    assert connection.closed
    assert log == ["closed"]


async def test_a_call_to_a_peer_that_closed_unnoticed_is_answered(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    peer.close()
    assert not connection.closed
    with pytest.raises(Disconnected):
        await call(connection, timeout=None)
    assert waiting(connection) == 0


@pytest.mark.parametrize("by", ["us", "the peer"])
async def test_calls_after_the_end_are_answered_at_once(
    link: tuple[Connection, Peer], by: str
) -> None:
    connection, peer = link
    if by == "us":
        connection.close()
    else:
        peer.close()
        await connection.wait_closed()
    for _ in range(2):
        with pytest.raises(Disconnected):
            await call(connection, timeout=None)
        outcomes: list[Message | DBusError] = []
        connection.request(Message(path="/", interface=TEST, member="T"), outcomes.append)
        assert [type(outcome) for outcome in outcomes] == [Disconnected]
        connection.send(changed(1))
        await connection.wait_closed()
    assert waiting(connection) == 0


async def test_closing_twice_tells_once(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    log = Log()
    connection.on_closed = lambda: log.append("closed")
    answer = call(connection, timeout=None)
    await peer.read()
    connection.close()
    connection.close()
    with pytest.raises(Disconnected):
        await answer
    await connection.wait_closed()
    connection.close()
    await connection.wait_closed()
    assert log == ["closed"]
    assert await peer.read_end() == b""


async def test_waiting_for_the_end_can_be_given_up(link: tuple[Connection, Peer]) -> None:
    connection, _ = link
    first, second = (asyncio.create_task(connection.wait_closed()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    connection.close()
    await second


async def test_nothing_is_handled_after_closing(link: tuple[Connection, Peer]) -> None:
    """Also what has come in the same piece: its handler may be gone."""
    connection, peer = link
    log = Log()

    def on_message(message: Message) -> None:
        log.append(message.member)
        connection.close()

    connection.on_message = on_message
    answer = call(connection, timeout=None)
    serial = (await peer.read()).serial
    await peer.write(wire.signal("A") + wire.signal("B") + wire.answer(serial))
    with pytest.raises(Disconnected):
        await answer
    assert log == ["A"]


async def test_what_a_peer_said_before_it_closed_is_handled(link: tuple[Connection, Peer]) -> None:
    """Also if our answer to the first message is what fails."""
    connection, peer = link
    log = Log()

    def on_message(message: Message) -> None:
        log.append(message.member)
        connection.reply_error(message, DBusError("no"))

    connection.on_message = on_message
    answer = call(connection, timeout=None)
    serial = (await peer.read()).serial
    calls = [wire.call("/", TEST, member) for member in "ABC"]
    await peer.write(b"".join(calls) + wire.answer(serial, "s", ["D"]))
    peer.close()
    assert await answer == ["D"]
    assert log == ["A", "B", "C"]
    await connection.wait_closed()


async def test_a_bus_that_ends_the_connection_is_noticed(bus: str) -> None:
    """It does that to a client that breaks its rules."""
    connection = await Connection.to_bus(address.connect(bus))
    log = Log()
    connection.on_closed = lambda: log.append("closed")
    with pytest.raises(Disconnected):
        # A second Hello is merely refused; a method of the local peer is not for the wire.
        await connection.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus/Local",
            "org.freedesktop.DBus.Local",
            "Disconnected",
            timeout=PATIENCE,
        )
    await connection.wait_closed()
    assert log == ["closed"]


# -- descriptors ---------------------------------------------------------------


async def test_connecting_leaves_no_descriptor_open(bus: str) -> None:
    before = open_fds()
    for _ in range(20):
        connection = await Connection.to_bus(address.connect(bus))
        await connection.sync()
        connection.close()
        await connection.wait_closed()
    assert open_fds() == before
    # With ResourceWarning an error, what is left to the collector is seen.
    gc.collect()


async def test_ends_of_all_kinds_leave_no_descriptor_open() -> None:
    before = open_fds()
    for _ in range(5):
        async with connected() as (connection, peer):
            connection.close()
        async with connected() as (connection, peer):
            peer.close()
            await connection.wait_closed()
        async with connected() as (connection, peer):
            connection.send(changed(0, "x" * 1_000_000))
            peer.close()
            await connection.wait_closed()
        async with connected() as (connection, peer):
            connection.send(changed(0, "x" * 1_000_000))
            connection.close()
    assert open_fds() == before


async def test_descriptors_that_a_peer_sends_are_not_kept(link: tuple[Connection, Peer]) -> None:
    """The kernel closes what we do not ask for; dbus-next kept ten of ten."""
    connection, peer = link
    log = Log()
    connection.on_message = lambda message: log.append(message.member)
    read, write = os.pipe()
    before = open_fds()
    fields: list[wire.Field] = [
        (wire.PATH, "o", "/"),
        (wire.INTERFACE, "s", TEST),
        (wire.MEMBER, "s", "Take"),
        (wire.SIGNATURE, "g", "h"),
        (9, "u", 3),
    ]
    frame = wire.frame(wire.SIGNAL, fields, wire.body("h", [0]))
    for number in range(10):
        socket.send_fds(peer.sock, [frame], [write, write, read])
        await log.until_length(number + 1)
    assert open_fds() == before
    # And none hides behind another number: the pipe has no other writer.
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


async def _receive_fds(peer: Peer, length: int) -> list[int]:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(peer.sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(peer.sock)
    # Not one byte more than the header, so that the rest can be read as usual.
    data, ancillary, _, _ = peer.sock.recvmsg(length, socket.CMSG_LEN(64), socket.MSG_PEEK)
    assert data
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content)
    return list(fds)


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "larger than the socket's buffer"])
async def test_a_descriptor_that_is_sent_can_be_used(
    link: tuple[Connection, Peer], size: int
) -> None:
    connection, peer = link
    read, write = os.pipe()
    before = open_fds()
    message = Message(path="/", interface=TEST, member="Take", signature="hs", body=[0, "x" * size])
    answer: asyncio.Future[Message | DBusError] = asyncio.get_running_loop().create_future()
    serial = connection.send_with_fds(message, [write])
    connection.expect(serial, answer.set_result)
    # What is sent after it stays behind it, whatever the socket took at once.
    after = connection.send(changed(1))
    assert after == serial + 1
    os.close(write)
    (received,) = await _receive_fds(peer, 16)
    assert open_fds() == before
    taken = await peer.read()
    assert (taken.serial, taken.body) == (serial, [0, "x" * size])
    assert (await peer.read()).serial == after
    os.write(received, b"through")
    os.close(received)
    assert os.read(read, 100) == b"through"
    os.close(read)
    await peer.write(wire.answer(serial))
    assert isinstance(await answer, Message)


async def test_descriptors_for_a_peer_that_closed_are_refused(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    message = Message(path="/", interface=TEST, member="Take", signature="h", body=[0])
    before = open_fds()
    peer.close()
    with pytest.raises(Disconnected, match="Broken pipe"):
        connection.send_with_fds(message, [0])
    await connection.wait_closed()
    with pytest.raises(Disconnected):
        connection.send_with_fds(message, [0])
    assert open_fds() == before - 2


async def test_descriptors_for_a_peer_that_does_not_read_are_refused() -> None:
    ours, theirs = socket.socketpair()
    ours_too = ours.dup()
    peer = Peer(theirs)
    connection, _ = await asyncio.gather(Connection.to_peer(ours), peer.authenticate())
    try:
        # Beside the connection, which would wait for the peer to read.
        while True:
            ours_too.send(bytes(4096))
    except BlockingIOError:
        pass
    message = Message(path="/", interface=TEST, member="Take", signature="h", body=[0])
    with pytest.raises(Disconnected, match="temporarily unavailable"):
        connection.send_with_fds(message, [0])
    connection.close()
    await connection.wait_closed()
    peer.close()
    ours_too.close()
