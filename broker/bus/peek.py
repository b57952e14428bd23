"""Header fields of a frame, read without decoding it.

These filter a flood: decoding a message takes several times as long. No function here raises:
for a malformed frame the results are empty, and the decoder reports the error.
"""

from __future__ import annotations

from typing import Final, Literal

from broker.bus.frames import FIXED_HEADER

# Header fields (D-Bus specification, Header Fields).
MEMBER: Final = 3
SENDER: Final = 7


def kind(frame: bytes) -> int:
    """The type of message, as in ``wire``."""
    return frame[1]


def flags(frame: bytes) -> int:
    """The flags, as in ``wire``."""
    return frame[2]


def field(frame: bytes, wanted: int) -> bytes:
    """A header field that is a string; empty if it is missing.

    Fields are walked one by one: a field's value may hold bytes that look like another
    field, and must not pass for the bus's own sender field.
    """
    order = _order(frame)
    at, end = FIXED_HEADER, _body(frame)
    while at + 8 <= end:
        code, length, type_ = frame[at], frame[at + 1], frame[at + 2]
        if length != 1:
            return b""
        if type_ in b"so":
            size = int.from_bytes(frame[at + 4 : at + 8], order)
            if code == wanted:
                return frame[at + 8 : at + 8 + size]
            at += 8 + size + 1
        elif type_ == ord("u"):
            at += 8
        elif type_ == ord("g"):
            at += 4 + 1 + frame[at + 4] + 1
        else:
            return b""
        at += -at % 8
    return b""


def fields(frame: bytes) -> bytes:
    """The raw header fields, for comparing two messages."""
    return frame[FIXED_HEADER : _body(frame)]


def first_string(frame: bytes) -> bytes:
    """The first argument of a message whose signature begins with a string."""
    at = _body(frame)
    size = int.from_bytes(frame[at : at + 4], _order(frame))
    return frame[at + 4 : at + 4 + size]


def _order(frame: bytes) -> Literal["little", "big"]:
    return "little" if frame[0] == ord("l") else "big"


def _body(frame: bytes) -> int:
    """The beginning of the body, and the end of the header's fields."""
    fields = int.from_bytes(frame[12:16], _order(frame))
    return FIXED_HEADER + fields + -fields % 8
