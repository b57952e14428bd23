"""One connection: bursts, back pressure, and order.

The table of dbus-next's bugs is why: its connection dies on a full socket.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from broker.bus.codec import Message
from broker.errors import DBusError, Disconnected
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log, Peer
from tests.bus.traffic import TEST, call, changed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.bus.connection import Connection

pytestmark = pytest.mark.asyncio


def echo(number: int, payload: str = "") -> bytes:
    """One of a numbered series of calls."""
    return wire.call("/", TEST, "Echo", "us", [number, payload], serial=number + 1)


async def stand_still(send: Callable[[], int], connection: Connection) -> None:
    """Send until nothing moves any more.

    Both ends are in this process, so a turn of the loop in which neither the
    socket takes anything nor the connection writes anything changes nothing,
    and no later one does.
    """
    idle = 0
    while idle < 10:
        before = connection.write_backlog
        try:
            moved = send()
        except BlockingIOError:
            moved = 0
        await asyncio.sleep(0)
        idle = 0 if moved or connection.write_backlog != before else idle + 1


# -- bursts --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "payload"), [(3000, "x" * 50), (50, "x" * 100_000)], ids=["many", "large"]
)
async def test_a_burst_larger_than_the_sockets_buffer_arrives_in_order(
    link: tuple[Connection, Peer], count: int, payload: str
) -> None:
    connection, peer = link
    # All of it before anyone reads: the socket is full, and nothing is lost.
    for number in range(count):
        connection.send(changed(number, payload))
    assert connection.write_backlog > 100_000
    for number in range(count):
        assert (await peer.read()).body == [number, payload]
    answer = call(connection)
    await peer.write(wire.answer((await peer.read()).serial))
    assert await answer == []
    assert connection.write_backlog == 0


async def test_what_is_corked_leaves_at_the_end_in_order(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    with connection.corked():
        for number in range(3):
            connection.send(changed(number, "x"))
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
    for number in range(3):
        assert (await peer.read()).body == [number, "x"]


async def test_it_is_told_when_the_peer_has_caught_up(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    log = Log()
    connection.on_writable = lambda: log.append(connection.is_writable)
    for number in range(50):
        connection.send(changed(number, "x" * 100_000))
    assert not connection.is_writable
    for _ in range(50):
        await peer.read()
    await log.until_length(1)
    assert log == [True]


@pytest.mark.parametrize(
    ("count", "payload"), [(3000, "x" * 50), (50, "x" * 100_000)], ids=["many", "large"]
)
async def test_a_burst_goes_through_a_bus_in_order(
    client: Callable[[], Awaitable[Connection]], count: int, payload: str
) -> None:
    sender, receiver = await client(), await client()
    log = Log()
    receiver.on_message = lambda message: (
        log.append(message.body) if message.member == "Changed" else None
    )
    rule = f"type='signal',sender='{sender.unique_name}',member='Changed'"
    await receiver.call_bus("AddMatch", "s", [rule])
    for number in range(count):
        sender.send(changed(number, payload))
    await log.until_length(count)
    assert log == [[number, payload] for number in range(count)]
    await sender.sync()
    await receiver.sync()


# -- back pressure -------------------------------------------------------------


async def test_a_peer_that_floods_us_with_calls_and_reads_no_answers_is_not_read(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    served = 0

    def serve(message: Message) -> None:
        nonlocal served
        served += 1
        connection.reply(message, "us", message.body)

    connection.on_message = serve
    calls = [echo(number, "x" * 4000) for number in range(3000)]
    stream = memoryview(b"".join(calls))
    sent = 0

    def send() -> int:
        nonlocal sent
        taken = peer.sock.send(stream[sent : sent + (1 << 16)])
        sent += taken
        return taken

    await stand_still(send, connection)
    # What both socket buffers and one reading hold, and no more, of 12 MB.
    assert 0 < served < 400
    assert connection.write_backlog < 1 << 20
    assert sent < 2 << 20

    rest = asyncio.create_task(peer.write(bytes(stream[sent:])))
    for number in range(len(calls)):
        answer = await peer.read()
        assert answer.reply_serial == number + 1
        assert answer.body[0] == number
    await rest
    assert served == len(calls)
    assert connection.write_backlog == 0


async def test_a_peer_that_goes_away_while_it_is_behind_is_noticed(
    link: tuple[Connection, Peer],
) -> None:
    """Nothing is read then, so the end does not come from there."""
    connection, peer = link
    log = Log()
    connection.on_closed = lambda: log.append("closed")
    answer = call(connection)
    await peer.read()
    for number in range(100):
        connection.send(changed(number, "x" * 10_000))
    peer.close()
    with pytest.raises(Disconnected):
        await answer
    await log.until_length(1)


async def test_a_peer_that_only_stops_sending_has_gone_too(link: tuple[Connection, Peer]) -> None:
    """Whatever still waits to be written must not keep the callers waiting."""
    connection, peer = link
    answer = call(connection, timeout=None)
    await peer.read()
    while not connection.write_backlog:
        connection.send(changed(0, "x" * 10_000))
    peer.sock.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Disconnected):
            await answer
        await connection.wait_closed()


# -- order ---------------------------------------------------------------------


async def test_everything_reaches_its_handler_in_the_order_of_the_wire(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    log = Log()

    def outcome(reply: Message | DBusError) -> None:
        log.append(str(reply) if isinstance(reply, DBusError) else reply.body[0])

    connection.on_message = lambda message: log.append(message.member)
    message = Message(path="/", interface=TEST, member="Test")
    first, second, third = (connection.request(message, outcome) for _ in range(3))
    pieces = [
        wire.signal("A"),
        wire.answer(second, "s", ["second"]),
        wire.call("/", TEST, "B"),
        wire.error(third, "org.example.Error", "third"),
        wire.signal("C"),
        wire.signal("D"),
        wire.answer(first, "s", ["first"]),
        wire.signal("E"),
    ]
    await peer.write(b"".join(pieces))
    await log.until_length(8)
    assert log == ["A", "second", "B", "third", "C", "D", "first", "E"]


async def test_what_a_bus_says_before_an_answer_is_handled_before_it(
    client: Callable[[], Awaitable[Connection]],
) -> None:
    connection = await client()
    log = Log()

    def on_message(message: Message) -> None:
        if message.member in ("NameAcquired", "NameLost") and message.body[0] == TEST:
            log.append(message.member)

    def answered(member: str, _reply: Message | DBusError) -> None:
        log.append(member)

    connection.on_message = on_message
    for _ in range(20):
        log.clear()
        for member, body in (("RequestName", [TEST, 4]), ("ReleaseName", [TEST])):
            request = Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member=member,
                signature="su"[: len(body)],
                body=body,
            )
            connection.request(request, partial(answered, member))
        await log.until_length(4)
        assert log == ["NameAcquired", "RequestName", "NameLost", "ReleaseName"]


async def test_each_of_many_calls_gets_its_own_answer(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    calls = [call(connection, signature="u", body=[number]) for number in range(100)]
    messages = [await peer.read() for _ in calls]
    for message in reversed(messages):
        await peer.write(wire.answer(message.serial, "u", message.body))
    assert await asyncio.gather(*calls) == [[number] for number in range(100)]


async def test_serials_go_round_and_are_never_zero(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    connection._serial = 0xFFFFFFFD  # noqa: SLF001 - four thousand million calls take too long
    sent = [connection.send(changed(number)) for number in range(4)]
    assert sent == [0xFFFFFFFE, 0xFFFFFFFF, 1, 2]
    assert [(await peer.read()).serial for _ in sent] == sent
