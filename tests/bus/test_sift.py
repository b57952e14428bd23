"""The messages that are dropped before they are decoded, and those that never are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bus import peek, wire
from broker.bus.driver import DRIVER
from broker.bus.flips import Flips
from broker.bus.names import NameWatch

if TYPE_CHECKING:
    from broker.bus.names import NameEvents

NAME: Final = "org.example.Name"
OTHER: Final = "org.example.Other"


def sifted(names: list[str], frames: list[bytes]) -> list[bytes]:
    """What a watch over names would decode."""

    async def sift() -> list[bytes]:
        watch = NameWatch(cast("NameEvents", None), max_rules=10)  # nothing is told here
        await watch.watch(names)
        return list(watch.sift(frames))

    return asyncio.run(sift())


def change(name: str, owner: str, **fields: Any) -> bytes:
    fields = {"path": "/", "member": "NameOwnerChanged", "sender": DRIVER} | fields
    return wire.encode(wire.SIGNAL, 1, "sss", (name, "", owner), **fields)


def test_a_name_that_is_flipped_is_told_with_its_first_changes_and_its_last() -> None:
    """Also where two are flipped in turn; an answer says how far the bus had come."""
    flips = [change(name, f":1.{i}") for i in range(100) for name in (NAME, OTHER)]
    answer = wire.encode(wire.RETURN, 1, reply_serial=1)
    told = sifted([NAME, OTHER], [*flips, answer, *flips])
    for name in (NAME, OTHER):
        mine = [change(name, f":1.{i}") for i in (*range(7), 99)]
        assert [each for each in told if each in mine or each == answer] == [*mine, answer, *mine]
    assert len(told) == 4 * 8 + 1


def test_a_watch_decodes_nothing_that_does_not_concern_it() -> None:
    others = [
        change(OTHER, ":1.1"),
        change(NAME + "x", ":1.1"),
        change(NAME, ":1.1", sender=":1.66"),
        change(NAME, ":1.1", member="NameLost"),
        wire.encode(wire.SIGNAL, 1, path="/", member="NameOwnerChanged", sender=DRIVER),
    ]
    assert sifted([NAME], others) == []


def test_a_watch_refuses_no_flood_of_calls() -> None:
    calls = [wire.encode(wire.CALL, 1, path="/", member="X", sender=":1.66")] * 1000
    assert len(sifted([NAME], calls)) == 16


def test_a_flood_is_many_changes_of_one_name_in_a_second() -> None:
    flips = Flips()
    # Five hundred names that change ten times, or one that does it a thousand times.
    assert not any(flips.too_many(b"%d" % (i % 500), 7.0) for i in range(5000))
    assert not any(flips.too_many(b"slow", 8.0 + i / 20) for i in range(5000))
    found = [flips.too_many(b"fast", 1000.0 + i / 2000) for i in range(2000)]
    assert found == [False] * 1000 + [True] * 1000
    assert not flips.too_many(b"other", 1000.9999)
    assert not flips.too_many(b"fast", 1001.0)


@pytest.mark.parametrize("order", ["l", "B"])
def test_fields_and_arguments_are_read_in_either_order_of_bytes(order: str) -> None:
    big = order == "B"
    frame = change(NAME, ":1.1") if not big else _big_endian()
    assert peek.field(frame, peek.SENDER) == DRIVER.encode()
    assert peek.field(frame, peek.MEMBER) == b"NameOwnerChanged"
    assert peek.field(frame, 99) == b""
    assert peek.first_string(frame) == NAME.encode()


def _big_endian() -> bytes:
    """With fields of other types before the one that is looked for."""

    def text(code: int, type_: str, value: str) -> bytes:
        raw = value.encode()
        data = bytes([code, 1, ord(type_), 0]) + len(raw).to_bytes(4, "big") + raw + b"\0"
        return data + bytes(-len(data) % 8)

    fields = text(3, "s", "NameOwnerChanged")
    fields += bytes([5, 1, ord("u"), 0, 0, 0, 0, 1])
    fields += bytes([8, 1, ord("g"), 0, 3]) + b"sss\0" + bytes(7)
    fields += text(7, "s", DRIVER)
    body = len(NAME).to_bytes(4, "big") + NAME.encode() + b"\0"
    fixed = b"B" + bytes([4, 0, 1]) + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 1])
    return fixed + len(fields).to_bytes(4, "big") + fields + body


def test_what_looks_like_a_field_within_another_is_none() -> None:
    """Only the bus sets the sender."""
    forged = "\x07\x01s\x00\x04\x00\x00\x00:1.1"
    frame = change(NAME, ":1.1", member=forged, sender=":1.66")
    assert peek.field(frame, peek.SENDER) == b":1.66"


@given(st.binary(max_size=200), st.binary(max_size=20), st.integers(1, 9))
def test_hostile_bytes_are_no_error(fields: bytes, body: bytes, code: int) -> None:
    for first, order in (b"l", "little"), (b"B", "big"):
        sizes = [len(body), 1, len(fields)]
        fixed = first + b"\4\0\1" + b"".join(_number(each, order) for each in sizes)
        frame = fixed + fields + bytes(-len(fields) % 8) + body
        assert isinstance(peek.field(frame, code), bytes)
        assert isinstance(peek.first_string(frame), bytes)


def _number(value: int, order: str) -> bytes:
    return value.to_bytes(4, "little" if order == "little" else "big")
