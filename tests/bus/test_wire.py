"""The wire format for short-lived programs, held against what the daemon has."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bus import codec
from broker.bus import wire as ours
from broker.bus.frames import MalformedMessageError
from tests.aio_client import plain
from tests.bus import wire
from tests.bus.generated import BODIES
from tests.bus.test_codec import relaxed
from tests.bus.test_marshalling import pairs

CALL = {"path": "/a", "interface": "org.example.Test", "member": "Test"}


@relaxed
@given(BODIES, st.sampled_from("<>"))
def test_every_type_is_read_as_the_daemon_reads_it(
    content: tuple[str, list[Any]], order: str
) -> None:
    signature, arguments = content
    fields = [*wire.PING, (wire.SENDER, "s", ":1.2"), (wire.SIGNATURE, "g", signature)]
    frame = wire.frame(
        wire.CALL, fields, wire.body(signature, arguments, order), order=order, flags=1, serial=9
    )
    found = ours.decode(frame)
    assert (found.kind, found.flags, found.serial) == (ours.CALL, ours.NO_REPLY_EXPECTED, 9)
    assert (found.path, found.member, found.sender) == ("/", "Ping", ":1.2")
    assert found.body == plain(arguments)


@relaxed
@given(BODIES)
def test_every_type_is_written_as_the_daemon_writes_it(content: tuple[str, list[Any]]) -> None:
    signature, arguments = content
    written = tuple(pairs(each) for each in arguments)
    frame = ours.encode(ours.CALL, 7, signature, written, **CALL, destination="org.example.Test")
    message = codec.decode(frame)
    assert message is not None
    assert message.body == arguments
    assert (message.path, message.interface, message.member) == tuple(CALL.values())
    assert (message.destination, message.serial) == ("org.example.Test", 7)


@relaxed
@given(st.data())
def test_damaged_messages_are_malformed_and_nothing_worse(data: st.DataObject) -> None:
    signature, arguments = data.draw(BODIES)
    fields = [*wire.PING, (wire.SIGNATURE, "g", signature)]
    whole = bytearray(wire.frame(wire.CALL, fields, wire.body(signature, arguments)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(12, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessageError):
        assert ours.decode(bytes(whole)).body is not None


def test_a_variant_in_a_variant_without_end_is_malformed() -> None:
    depth = 5000
    body = b"\1v\0" * depth + b"\1y\0\0"
    fields: list[wire.Field] = [*wire.PING, (wire.SIGNATURE, "g", "v")]
    message = ours.decode(wire.frame(wire.CALL, fields, body))
    with pytest.raises(MalformedMessageError):
        assert message.body


def test_unknown_header_fields_are_ignored() -> None:
    fields: list[wire.Field] = [(200, "a{sv}", {"x": ("u", 1)}), *wire.PING]
    assert ours.decode(wire.frame(wire.CALL, fields)).member == "Ping"
