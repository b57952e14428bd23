"""One connection: order, back pressure, its end, and descriptors.

The table of dbus-next's bugs is why: its connection dies on a full socket,
never answers a call after its end, keeps a handler for each call that was
given up, and leaks sockets and descriptors.
"""

from __future__ import annotations

import array
import asyncio
import gc
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from broker.bus import address
from broker.bus.codec import Message, MessageFlag, MessageType, signal
from broker.bus.connection import Connection
from broker.bus.names import DRIVER
from broker.errors import Disconnected, NoReply, Outcome, RemoteError
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log, Peer, connected, open_fds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.asyncio

TEST = "org.example.Test"


def changed(number: int, payload: str = "") -> Message:
    """One of a numbered series of signals."""
    return signal("/org/example", TEST, "Changed", "us", [number, payload])


def echo(number: int, payload: str = "") -> bytes:
    """One of a numbered series of calls."""
    return wire.call("/", TEST, "Echo", "us", [number, payload], serial=number + 1)


def waiting(connection: Connection) -> int:
    """How many calls the connection still knows of."""
    return len(connection._pending)  # noqa: SLF001 - whether it is emptied is the question


def call(connection: Connection, member: str = "Echo", **options: Any) -> asyncio.Task[list[Any]]:
    """A call that is under way."""
    return asyncio.create_task(connection.call(None, "/", TEST, member, **options))


async def stand_still(send: Callable[[], int], connection: Connection) -> None:
    """Send until nothing moves any more.

    Both ends are in this process, so a turn of the loop in which neither the
    socket takes anything nor the connection writes anything changes nothing,
    and no later one does.
    """
    idle = 0
    while idle < 10:
        before = connection.behind
        try:
            moved = send()
        except BlockingIOError:
            moved = 0
        await asyncio.sleep(0)
        idle = 0 if moved or connection.behind != before else idle + 1


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
    assert connection.behind > 100_000
    for number in range(count):
        assert (await peer.read()).body == [number, payload]
    answer = call(connection)
    await peer.write(wire.answer((await peer.read()).serial))
    assert await answer == []
    assert connection.behind == 0


async def test_what_is_corked_leaves_at_the_end_in_order(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    with connection.corked():
        for number in range(3):
            connection.send(changed(number, "x"))
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
    for number in range(3):
        assert (await peer.read()).body == [number, "x"]


async def test_what_is_on_its_way_is_unread_until_it_is_whole(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    log = Log()
    connection.on_message = log.append
    message = echo(1)
    states = [connection.unread]
    for part in (message[:9], message[9:]):
        await peer.write(part)
        states.append(connection.unread)
        await asyncio.sleep(0)  # read by the loop, as far as it has come
        await asyncio.sleep(0)
    await log.until_length(1)
    states.append(connection.unread)
    assert states == [False, True, True, False]
    # Of several that came at once, each handler sees that there are more.
    seen: list[bool] = []

    def handle(message: Message) -> None:
        seen.append(connection.unread)
        log.append(message)

    connection.on_message = handle
    await peer.write(echo(2) + echo(3))
    await log.until_length(3)
    assert seen == [True, False]


async def test_it_is_told_when_the_peer_has_caught_up(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    log = Log()
    connection.on_caught_up = lambda: log.append(connection.is_caught_up)
    for number in range(50):
        connection.send(changed(number, "x" * 100_000))
    assert not connection.is_caught_up
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
    await sender.drain()
    await receiver.drain()


# -- back pressure -------------------------------------------------------------


async def test_who_floods_us_with_calls_and_reads_nothing_is_not_read_either(
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
    assert connection.behind < 1 << 20
    assert sent < 2 << 20

    rest = asyncio.create_task(peer.write(bytes(stream[sent:])))
    for number in range(len(calls)):
        answer = await peer.read()
        assert answer.reply_serial == number + 1
        assert answer.body[0] == number
    await rest
    assert served == len(calls)
    assert connection.behind == 0


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
    while not connection.behind:
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

    def outcome(reply: Message | Outcome) -> None:
        log.append(str(reply) if isinstance(reply, Outcome) else reply.body[0])

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

    def answered(member: str, _reply: Message | Outcome) -> None:
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


# -- answers -------------------------------------------------------------------


async def test_an_error_is_raised_with_its_name_and_text(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    for body, text in (("text", "text"), (None, "")):
        answer = call(connection)
        serial = (await peer.read()).serial
        await peer.write(wire.error(serial, "org.example.Error.Bad", body))
        with pytest.raises(RemoteError) as caught:
            await answer
        assert caught.value.name == "org.example.Error.Bad"
        assert str(caught.value) == text


async def test_an_error_whose_body_is_no_text_is_an_error(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    answer = call(connection)
    serial = (await peer.read()).serial
    fields: list[wire.Field] = [
        (wire.REPLY_SERIAL, "u", serial),
        (wire.ERROR_NAME, "s", "org.example.Error.Bad"),
        (wire.SIGNATURE, "g", "u"),
    ]
    await peer.write(wire.frame(wire.ERROR, fields, wire.body("u", [7])))
    with pytest.raises(RemoteError, match=r"^$"):
        await answer


async def test_a_call_without_an_answer_ends_with_its_timeout_and_leaves_nothing(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    with pytest.raises(NoReply, match=r"no answer to Slow within 0\.02 s"):
        await call(connection, "Slow", timeout=0.02)
    assert waiting(connection) == 0
    # Its answer comes late, and is nobody's.
    late = (await peer.read()).serial
    answer = call(connection)
    serial = (await peer.read()).serial
    await peer.write(wire.answer(late, "s", ["late"]) + wire.answer(serial, "s", ["right"]))
    assert await answer == ["right"]
    assert waiting(connection) == 0


async def test_a_cancelled_call_leaves_nothing(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    calls = [call(connection, timeout=None) for _ in range(10)]
    serials = [(await peer.read()).serial for _ in calls]
    assert waiting(connection) == 10
    for each in calls[::2]:
        each.cancel()
    await asyncio.wait(calls[::2])
    assert waiting(connection) == 5
    await peer.write(b"".join(wire.answer(serial) for serial in serials))
    assert await asyncio.gather(*calls[1::2]) == [[]] * 5
    assert waiting(connection) == 0


async def test_a_forgotten_request_is_not_answered(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    log = Log()
    message = Message(path="/", interface=TEST, member="Test")
    serials = [connection.request(message, lambda _: log.append("answer")) for _ in range(2)]
    connection.forget(serials[0])
    connection.forget(serials[0])
    await peer.write(b"".join(wire.answer(serial) for serial in serials))
    await log.until_length(1)
    assert waiting(connection) == 0
    assert log == ["answer"]


async def test_answers_to_nothing_are_ignored(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    answer = call(connection)
    serial = (await peer.read()).serial
    strays = wire.answer(serial + 1) + wire.error(serial + 9, "org.example.Error", "stray")
    await peer.write(strays + wire.answer(serial) + wire.answer(serial))
    assert await answer == []
    assert not connection.closed


async def test_a_call_that_may_not_start_a_service_says_so(
    client: Callable[[], Awaitable[Connection]],
) -> None:
    connection = await client()
    with pytest.raises(RemoteError) as caught:
        await connection.call("org.example.Nobody", "/", TEST, "Test", auto_start=False)
    assert caught.value.name in (
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.ServiceUnknown",
    )


async def test_the_flag_against_starting_is_on_the_wire(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    for auto_start, flags in ((True, MessageFlag.NONE), (False, MessageFlag.NO_AUTOSTART)):
        answer = call(connection, auto_start=auto_start)
        message = await peer.read()
        assert message.flags == flags
        await peer.write(wire.answer(message.serial))
        await answer


# -- calls to us ---------------------------------------------------------------


async def test_calls_that_nobody_serves_are_refused_but_not_those_that_want_no_answer(
    link: tuple[Connection, Peer],
) -> None:
    connection, peer = link
    await peer.write(
        wire.call("/", TEST, "Test", serial=5, flags=MessageFlag.NO_REPLY_EXPECTED)
        + wire.signal("Test")
        + wire.call("/", TEST, "Test", serial=6)
    )
    answer = await peer.read()
    assert answer.message_type is MessageType.ERROR
    assert (answer.reply_serial, answer.error_name) == (
        6,
        "org.freedesktop.DBus.Error.UnknownMethod",
    )
    assert not connection.closed


async def test_no_reply_is_sent_to_who_expects_none(link: tuple[Connection, Peer]) -> None:
    connection, peer = link

    def serve(message: Message) -> None:
        connection.reply(message, "s", ["answer"])
        connection.reply_error(message, Outcome("error"))

    connection.on_message = serve
    await peer.write(
        wire.call("/", TEST, "Test", serial=5, flags=MessageFlag.NO_REPLY_EXPECTED)
        + wire.call("/", TEST, "Test", serial=6)
    )
    assert [(await peer.read()).reply_serial for _ in range(2)] == [6, 6]


async def test_an_answer_goes_to_the_sender(link: tuple[Connection, Peer]) -> None:
    _, peer = link
    await peer.write(wire.call("/", TEST, "Test", sender=":1.99"))
    assert (await peer.read()).destination == ":1.99"


@pytest.mark.parametrize(
    ("asked", "sender", "taken"),
    [
        (DRIVER, DRIVER, True),
        (DRIVER, ":1.66", False),
        (":1.5", ":1.5", True),
        (":1.5", ":1.66", False),
        (":1.5", DRIVER, True),  # NoReply, or that it has gone
        ("org.example.Test", ":1.66", True),
    ],
)
async def test_only_whom_we_asked_and_the_bus_answer(
    link: tuple[Connection, Peer], asked: str, sender: str, taken: bool
) -> None:
    """dbus-daemon lets an answer through that nobody has asked for."""
    connection, peer = link
    answers, signals = Log(), Log()
    connection.on_message = lambda message: signals.append(message.member)
    question = Message(destination=asked, path="/", member="Who")
    serial = connection.request(question, answers.append)
    fields: list[wire.Field] = [(wire.REPLY_SERIAL, "u", serial), (wire.SIGNATURE, "g", "s")]

    def answer(sender: str) -> bytes:
        content = wire.body("s", [f"from {sender}"])
        return wire.frame(wire.RETURN, [*fields, (wire.SENDER, "s", sender)], content)

    await peer.write(answer(sender) + wire.signal("A") + answer(asked) + wire.signal("B"))
    await signals.until_length(2)
    assert [each.body for each in answers] == [[f"from {sender if taken else asked}"]]


# -- bad messages --------------------------------------------------------------


async def test_a_malformed_message_costs_itself(
    link: tuple[Connection, Peer], caplog: pytest.LogCaptureFixture
) -> None:
    connection, peer = link
    log = Log()
    connection.on_message = lambda message: log.append(message.member)
    bad = wire.frame(wire.CALL, [*wire.PING, (wire.SIGNATURE, "g", "s")])
    await peer.write(wire.signal("A") + bad + wire.frame(9, []) + wire.signal("B"))
    await log.until_length(2)
    assert log == ["A", "B"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        wire.frame(wire.CALL, wire.PING, version=2),
        wire.frame(wire.CALL, wire.PING, length=1 << 27),
    ],
    ids=["text", "version", "length"],
)
async def test_a_stream_that_cannot_be_read_on_ends_the_connection(
    link: tuple[Connection, Peer], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    connection, peer = link
    log = Log()
    connection.on_message = lambda message: log.append(message.member)
    answer = call(connection, timeout=None)
    await peer.read()
    await peer.write(wire.signal("A") + garbage)
    with pytest.raises(Disconnected):
        await answer
    assert log == ["A"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert await peer.read_end() == b""


async def test_a_message_in_pieces_is_put_together(link: tuple[Connection, Peer]) -> None:
    connection, peer = link
    log = Log()
    connection.on_message = lambda message: log.append(message.member)
    stream = wire.signal("A") + wire.signal("B", "s", ["x" * 40])
    for byte in stream:
        await peer.write(bytes([byte]))
        await asyncio.sleep(0)  # so that each is read alone
    await log.until_length(2)
    assert log == ["A", "B"]


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


async def test_a_call_to_a_peer_that_has_gone_unnoticed_is_answered(
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
        outcomes: list[Message | Outcome] = []
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
    """Also when answering the first of it is what shows that it has gone."""
    connection, peer = link
    log = Log()

    def on_message(message: Message) -> None:
        log.append(message.member)
        connection.reply_error(message, Outcome("no"))

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
    """It does that to whoever breaks its rules."""
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
        await connection.drain()
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
    answer: asyncio.Future[Message | Outcome] = asyncio.get_running_loop().create_future()
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


async def test_descriptors_for_a_peer_that_has_gone_are_refused(
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
