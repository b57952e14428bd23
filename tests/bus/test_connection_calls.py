"""Calls by us and to us; dbus-next keeps a handler for each of ours that was given up."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from broker.bus.codec import Message, MessageFlag, MessageType
from broker.bus.driver import DRIVER
from broker.errors import DBusError, Disconnected, NoReply, RemoteError
from tests.bus import wire
from tests.bus.peer import Log, Peer
from tests.bus.traffic import TEST, call, waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.bus.connection import Connection

pytestmark = pytest.mark.asyncio


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


async def test_no_reply_is_sent_to_a_call_that_expects_none(link: tuple[Connection, Peer]) -> None:
    connection, peer = link

    def serve(message: Message) -> None:
        connection.reply(message, "s", ["answer"])
        connection.reply_error(message, DBusError("error"))

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
async def test_only_the_callee_and_the_bus_can_answer(
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
