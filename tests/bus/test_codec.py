"""Frames and messages, also such as only an enemy sends."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from dbus_next.signature import SignatureTree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.bus import codec
from broker.bus.codec import (
    Head,
    MalformedMessageError,
    Message,
    MessageFlag,
    MessageType,
    Splitter,
    Variant,
    decode,
    encode,
)
from broker.bus.frames import MAX_MESSAGE
from tests.bus import wire
from tests.bus.generated import BODIES

if TYPE_CHECKING:
    from collections.abc import Callable

# Generating takes longer than hypothesis likes where the machine is busy.
relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# -- every type ----------------------------------------------------------------


@relaxed
@given(BODIES)
def test_every_type_is_marshalled_as_the_specification_says(content: tuple[str, list[Any]]) -> None:
    signature, arguments = content
    message = Message(
        destination="org.example.Test",
        path="/a",
        interface="org.example.Test",
        member="Test",
        signature=signature,
        body=arguments,
        serial=7,
    )
    fields: list[wire.Field] = [
        (wire.PATH, "o", "/a"),
        (wire.INTERFACE, "s", "org.example.Test"),
        (wire.MEMBER, "s", "Test"),
        (wire.DESTINATION, "s", "org.example.Test"),
        *([(wire.SIGNATURE, "g", signature)] if signature else []),
    ]
    assert encode(message) == wire.frame(
        wire.CALL, fields, wire.body(signature, arguments), serial=7
    )


@relaxed
@given(BODIES, st.sampled_from("<>"))
def test_every_type_is_read_in_both_byte_orders(content: tuple[str, list[Any]], order: str) -> None:
    signature, arguments = content
    fields = [*wire.PING, (wire.SENDER, "s", ":1.2"), (wire.SIGNATURE, "g", signature)]
    body = wire.body(signature, arguments, order)
    message = decode(wire.frame(wire.CALL, fields, body, order=order, serial=0xFFFFFFFF))
    assert message is not None
    assert message.body == arguments
    assert (message.signature, message.serial, message.sender, message.member) == (
        signature,
        0xFFFFFFFF,
        ":1.2",
        "Ping",
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_header_field_is_read(order: str) -> None:
    frame = wire.frame(
        wire.ERROR,
        [
            (wire.ERROR_NAME, "s", "org.example.Error.Bad"),
            (wire.REPLY_SERIAL, "u", 0xFFFFFFFE),
            (wire.DESTINATION, "s", ":1.7"),
            (wire.SENDER, "s", "org.freedesktop.DBus"),
        ],
        order=order,
        flags=MessageFlag.NO_REPLY_EXPECTED,
    )
    message = decode(frame)
    assert message is not None
    assert message.message_type is MessageType.ERROR
    assert message.error_name == "org.example.Error.Bad"
    assert message.reply_serial == 0xFFFFFFFE
    assert message.destination == ":1.7"
    assert message.sender == "org.freedesktop.DBus"
    assert message.flags == MessageFlag.NO_REPLY_EXPECTED


def test_text_of_the_system_that_is_no_utf8_is_sent_as_escapes() -> None:
    """One such variable in the environment must not make all properties unreadable."""
    text = os.fsdecode(b"\xc3\xa4=\xff\\")
    message = codec.signal(
        "/",
        "org.example.Test",
        "Changed",
        "sasa{sv}(sv)ay",
        [text, [text, "a"], {text: Variant("s", text)}, [text, Variant("u", 1)], b"\xff"],
    )
    message.serial = 1
    received = decode(encode(message))
    assert received is not None
    sent = "ä=\\xff\\"
    assert received.body == [
        sent,
        [sent, "a"],
        {sent: Variant("s", sent)},
        [sent, Variant("u", 1)],
        b"\xff",
    ]


# -- what later versions of the protocol may send ------------------------------


def test_an_unknown_header_field_is_ignored() -> None:
    unknown: list[wire.Field] = [(9, "u", 1), (200, "a{sv}", {"a": Variant("s", "b")})]
    message = decode(wire.frame(wire.CALL, [*unknown, *wire.PING, (10, "s", "x")]))
    assert message is not None
    assert message.member == "Ping"


@pytest.mark.parametrize("kind", [5, 100, 255])
def test_an_unknown_type_of_message_is_ignored(kind: int) -> None:
    assert decode(wire.frame(kind, wire.PING)) is None


def test_unknown_flags_are_ignored() -> None:
    message = decode(wire.frame(wire.CALL, wire.PING, flags=0xF8 | 1))
    assert message is not None
    assert message.flags & MessageFlag.NO_REPLY_EXPECTED
    assert not message.flags & MessageFlag.NO_AUTOSTART


# -- malformed -----------------------------------------------------------------


def with_body(signature: str, content: bytes) -> bytes:
    """A call whose body is not what its signature says."""
    return wire.frame(wire.CALL, [*wire.PING, (wire.SIGNATURE, "g", signature)], content)


def _variants(depth: int) -> bytes:
    return b"\x01v\x00" * depth + b"\x01y\x00\x00"


MALFORMED = {
    "the body ends early": with_body("ss", wire.body("s", ["a"])),
    "there is no body": with_body("s", b""),
    "a string is longer than the message": with_body("s", b"\xff\xff\xff\xffab\0"),
    "a string is not UTF-8": with_body("s", b"\x02\0\0\0\xff\xfe\0"),
    "an array is longer than the message": with_body("at", b"\xff\xff\xff\x03"),
    "the signature has an unknown type": with_body("?", b"\0\0\0\0"),
    "the signature opens a struct": with_body("(", b"\0\0\0\0"),
    "the signature closes a struct": with_body(")", b"\0\0\0\0"),
    "the signature has an empty struct": with_body("()", b"\0\0\0\0"),
    "the signature has an array of nothing": with_body("a", b"\0\0\0\0"),
    "a variant has a dictionary's entry alone": with_body(
        "v", b"\x04{ss}\0\0\0" + wire.body("(ss)", [["a", "b"]])
    ),
    "a variant has no type": with_body("v", b"\0\0"),
    "a variant has two types": with_body("v", b"\x02yy\0\0\0"),
    "a variant has an unknown type": with_body("v", b"\x01!\0\0"),
    "a dictionary's key is a variant": with_body(
        "a{vs}", wire.body("a(vs)", [[(Variant("y", 1), "")]])
    ),
    "variants are nested without end": with_body("v", _variants(20_000)),
    "a variant's path is no path": with_body("v", b"\x01o\0\0\x01\0\0\0a\0"),
    "the path is no path": wire.frame(
        wire.CALL, [(wire.PATH, "o", "a/b"), (wire.MEMBER, "s", "P")]
    ),
    "the member is no name": wire.frame(
        wire.CALL, [(wire.PATH, "o", "/"), (wire.MEMBER, "s", "a.b")]
    ),
    "the interface is no name": wire.frame(wire.CALL, [*wire.PING, (wire.INTERFACE, "s", "a b")]),
    "the destination is no name": wire.frame(wire.CALL, [*wire.PING, (wire.DESTINATION, "s", "a")]),
    "the sender is no name": wire.frame(wire.CALL, [*wire.PING, (wire.SENDER, "s", "no name")]),
    "the sender is a number": wire.frame(wire.CALL, [*wire.PING, (wire.SENDER, "u", 1)]),
    "the signature is a string": wire.frame(
        wire.CALL, [*wire.PING, (wire.SIGNATURE, "s", "u")], bytes(4)
    ),
    "the reply's serial is a list": wire.frame(wire.RETURN, [(wire.REPLY_SERIAL, "as", ["a"])]),
    "the reply's serial is a string": wire.frame(wire.RETURN, [(wire.REPLY_SERIAL, "s", "1")]),
    "a call has no member": wire.frame(wire.CALL, [(wire.PATH, "o", "/")]),
    "a call has no path": wire.frame(wire.CALL, [(wire.MEMBER, "s", "Ping")]),
    "a signal has no interface": wire.frame(wire.SIGNAL, wire.PING),
    "a reply has no serial": wire.frame(wire.RETURN, []),
    "an error has no name": wire.frame(wire.ERROR, [(wire.REPLY_SERIAL, "u", 1)]),
    "the serial is zero": wire.frame(wire.CALL, wire.PING, serial=0),
    "the header is cut": wire.frame(wire.CALL, wire.PING)[:20],
    "the fields are longer than the message": (
        wire.frame(wire.CALL, wire.PING)[:12] + b"\xff\xff\xff\x07" + bytes(40)
    ),
}


@pytest.mark.parametrize("reason", MALFORMED)
def test_a_malformed_message_is_named_as_such(reason: str) -> None:
    with pytest.raises(MalformedMessageError):
        _read(MALFORMED[reason])


def _read(frame: bytes) -> None:
    """All of it: the body of a large message is read when it is asked for."""
    message = decode(frame)
    assert message is None or message.body is not None


VALID = [
    wire.call("/org/example", "org.example.Test", "Echo", "sv", ["a", Variant("as", ["b"])]),
    wire.call("/", None, "Ping", flags=1, sender=":1.5"),
    wire.signal("Changed", "a{sv}ay(tb)", [{"k": Variant("x", -1)}, b"\1\2", [7, True]]),
    wire.answer(3, "ao", [["/", "/a"]]),
    wire.error(4, "org.example.Error", "text"),
    wire.frame(
        wire.CALL, [*wire.PING, (wire.SIGNATURE, "g", "d")], wire.body("d", [1.5], ">"), order=">"
    ),
]


def take(data: bytes) -> None:
    """All that is done to what a peer sends, up to the answer to a call."""
    try:
        for frame in Splitter().feed(data):
            message = decode(frame)
            if message is not None:
                assert isinstance(message.body, list)
            if message is not None and message.message_type is MessageType.METHOD_CALL:
                answer = Message.new_error(message, "org.example.Error", "text")
                answer.serial = 1
                encode(answer)
            elif message is not None and message.message_type is not MessageType.SIGNAL:
                assert isinstance(message.reply_serial, int)
    except MalformedMessageError:
        pass


@relaxed
@given(st.binary())
@example(b"l\1\0\1" + bytes(12))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    take(data)
    take(b"l" + data)
    take(b"l\1\0\1" + data)


@settings(relaxed, max_examples=400)
@given(
    st.sampled_from([*VALID, *MALFORMED.values()]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4),
    st.integers(0, 1 << 16),
)
def test_mutated_messages_raise_nothing_else(
    frame: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    mutated = bytearray(frame)
    for index, value in changes:
        mutated[index % len(mutated)] = value
    take(bytes(mutated))
    if cut % 4 == 0:
        # As if the splitter had let it through.
        _decode(bytes(mutated[: max(16, cut % len(mutated))]))


def _decode(frame: bytes) -> None:
    with contextlib.suppress(MalformedMessageError):
        _read(frame)


# -- the cache of signatures ---------------------------------------------------


def _struct(number: int) -> str:
    """A signature that no other number has."""
    return "(" + "".join("yb"[number >> bit & 1] for bit in range(12)) + ")"


@pytest.mark.parametrize(
    "make",
    [
        lambda number: with_body(f"a{_struct(number)}", wire.body("as", [[]]) + bytes(4)),
        lambda number: with_body(f"a{_struct(number)}", b"\xff\xff\xff\x01"),
        lambda number: wire.call("/", None, "P", "v", [Variant(f"a{_struct(number)}", [])]),
    ],
    ids=["of bodies", "of malformed bodies", "of variants"],
)
def test_the_cache_of_signatures_stays_small(make: Callable[[int], bytes]) -> None:
    frames = [make(number) for number in range(1000)]
    before = len(SignatureTree._cache)  # noqa: SLF001 - no other view
    for frame in frames:
        _decode(frame)
    assert len(SignatureTree._cache) == before  # noqa: SLF001


# -- the stream ----------------------------------------------------------------

STREAM = b"".join(VALID)


def split(chunks: list[bytes]) -> list[bytes]:
    """The frames of a stream that comes in chunks."""
    splitter = Splitter()
    return [frame for chunk in chunks for frame in splitter.feed(chunk)]


def test_a_stream_may_be_cut_at_every_byte() -> None:
    for at in range(len(STREAM) + 1):
        assert split([STREAM[:at], STREAM[at:]]) == VALID, at


def test_a_stream_may_come_byte_by_byte() -> None:
    assert split([STREAM[at : at + 1] for at in range(len(STREAM))]) == VALID


@relaxed
@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert split([STREAM[a:b] for a, b in itertools.pairwise(edges)]) == VALID


def taken(frame: bytes, most: int) -> list[bytes]:
    """What is given of a frame where no more bytes are taken."""
    (fields,) = struct.unpack_from("<I" if frame[0] == ord("l") else ">I", frame, 12)
    head = 16 + (fields + 7 & ~7)
    if len(frame) <= most:
        return [frame]
    return [Head(frame[:head])] if head <= most else []


@relaxed
@given(st.lists(st.integers(0, len(STREAM))), st.sampled_from(sorted(map(len, VALID))))
def test_of_what_is_too_long_the_header_is_given(cuts: list[int], most: int) -> None:
    splitter = Splitter()
    splitter.most = most - 1
    edges = [0, *sorted(cuts), len(STREAM)]
    found: list[bytes] = []
    for a, b in itertools.pairwise(edges):
        found += splitter.feed(STREAM[a:b])
        assert len(splitter._buffer) <= max(16, most)  # noqa: SLF001 - what it is for
    expected = [each for frame in VALID for each in taken(frame, splitter.most)]
    assert found == expected
    assert [type(each) for each in found] == [type(each) for each in expected]
    for each in found:
        if isinstance(each, Head):
            message = decode(each)
            assert message is None or message.body == []


def test_the_splitter_keeps_nothing_of_what_it_gave() -> None:
    splitter = Splitter()
    for _ in range(100):
        assert list(splitter.feed(STREAM)) == VALID
    half = VALID[0][:9]
    assert list(splitter.feed(half)) == []
    # A handler that raises ends the loop; what it had is not given again.
    frames = splitter.feed(VALID[0][9:] + VALID[1])
    assert next(frames) == VALID[0]
    frames.close()  # type: ignore[attr-defined]
    assert list(splitter.feed(b"")) == [VALID[1]]


def test_messages_before_garbage_are_given() -> None:
    frames = Splitter().feed(VALID[0] + VALID[1] + b"HTTP/1.1 400 Bad Request\r\n")
    assert [next(frames), next(frames)] == VALID[:2]
    with pytest.raises(MalformedMessageError, match="does not speak"):
        next(frames)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_of_the_protocol_ends_the_stream(version: int) -> None:
    with pytest.raises(MalformedMessageError, match="version 1"):
        list(Splitter().feed(wire.frame(wire.CALL, wire.PING, version=version)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_message_over_the_limit_is_refused_before_it_comes(order: str) -> None:
    header = len(wire.frame(wire.CALL, wire.PING))
    longest = wire.frame(wire.CALL, wire.PING, order=order, length=MAX_MESSAGE - header)
    assert list(Splitter().feed(longest)) == []
    too_long = wire.frame(wire.CALL, wire.PING, order=order, length=MAX_MESSAGE - header + 1)
    with pytest.raises(MalformedMessageError, match=f"{MAX_MESSAGE + 1} bytes"):
        list(Splitter().feed(too_long[:16]))


def test_lengths_that_overflow_32_bits_are_refused() -> None:
    with pytest.raises(MalformedMessageError, match="over the protocol's limit"):
        list(Splitter().feed(b"l\1\0\1" + b"\xff\xff\xff\xff" + bytes(4) + b"\xff\xff\xff\xff"))


# -- the small ones ------------------------------------------------------------


def test_a_signal_is_broadcast() -> None:
    message = codec.signal("/a", "org.example.Test", "Changed", "s", ["x"])
    assert message.message_type is MessageType.SIGNAL
    assert message.destination is None
    assert message.body == ["x"]


def test_it_can_be_imported_where_python_has_dropped_what_dbus_next_imports() -> None:
    """Python 3.15 has no ``typing.no_type_check_decorator``, 3.16 no ``iscoroutinefunction``."""
    program = """
import asyncio, typing
del typing.no_type_check_decorator
del asyncio.iscoroutinefunction
from broker.bus import codec
message = codec.signal("/", "org.example.Test", "Changed", "as", [["a"]])
message.serial = 1
assert codec.decode(codec.encode(message)).body == [["a"]]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
