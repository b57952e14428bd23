"""Messages in D-Bus's wire format: headers and bodies, written and read.

Programs with an event loop use dbus-next's message class on top of it (``codec``). Its
import takes 80 ms, half of them asyncio's, a delay for each run of a command: so
synchronous clients use ``Received``. The tests compare both with dbus-next. Values are as
in ``marshalling``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from broker.bus import marshalling
from broker.bus.frames import FIXED_HEADER, MalformedMessageError

if TYPE_CHECKING:
    from broker.bus.marshalling import Wrap

# Message types (D-Bus specification, Message Format).
CALL: Final = 1
RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4

NO_REPLY_EXPECTED: Final = 0x1

# Header fields to their codes and types (Header Fields).
FIELDS: Final = {
    "path": (1, "o"),
    "interface": (2, "s"),
    "member": (3, "s"),
    "error_name": (4, "s"),
    "reply_serial": (5, "u"),
    "destination": (6, "s"),
    "sender": (7, "s"),
    "signature": (8, "g"),
    "unix_fds": (9, "u"),
}
# Codes to names, types, and the signature before the value: its length, itself, NUL.
_KNOWN: Final = {
    code: (name, type_, b"\1" + type_.encode() + b"\0") for name, (code, type_) in FIELDS.items()
}
_PROTOCOL_VERSION: Final = 1


class Received:
    """A received message; missing fields are empty or 0."""

    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""

    def __init__(self, frame: bytes) -> None:
        self.kind = frame[1]
        self.flags = frame[2]
        self.serial, fields, self._start = header(frame)
        self.size = len(frame)
        self._frame = frame
        self._body: list[Any] | None = None
        self.__dict__ |= fields

    @property
    def body(self) -> list[Any]:
        """The arguments, read on first use; raises MalformedMessageError."""
        if self._body is None:
            self._body = body(self._frame, self._start, self.signature)
            self._frame = b""
        return self._body


def encode(
    kind: int, serial: int, signature: str = "", body: tuple[Any, ...] = (), **fields: Any
) -> bytes:
    """The bytes of a message; ``fields`` are those of ``Received``.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: the body does not match the signature.
    """
    if signature:
        fields["signature"] = signature
    return assemble(kind, 0, serial, fields, marshalling.body(signature, body))


def assemble(kind: int, flags: int, serial: int, fields: dict[str, Any], body: bytearray) -> bytes:
    """The bytes of a message, from its header and the bytes of its body."""
    header = bytearray(FIXED_HEADER)
    for name, value in fields.items():
        code, type_ = FIELDS[name]
        header += bytes(-len(header) % 8) + bytes((code, 1, ord(type_), 0))
        marshalling.writer(type_)(header, value)
    fixed = (ord("l"), kind, flags, _PROTOCOL_VERSION)
    size = len(header) - FIXED_HEADER
    struct.pack_into("<4B3I", header, 0, *fixed, len(body), serial, size)
    return bytes(header + bytes(-len(header) % 8) + body)


def decode(frame: bytes) -> Received:
    """The message in one whole frame.

    Its body is read on first use: the message may not interest anyone.

    Raises:
        MalformedMessageError: the frame contradicts its own header. For the body, ``body``
            raises it.
    """
    return Received(frame)


def header(frame: bytes) -> tuple[int, dict[str, Any], int]:
    """The serial, the known fields by name, and the offset of the body.

    The fields are read one by one. As the array of structs and variants that they form,
    they would take three times as long, and an activation waits for this.

    Raises:
        MalformedMessageError: the header contradicts itself.
    """
    order = _order(frame)
    fields: dict[str, Any] = {}
    try:
        serial, length = struct.unpack_from(order + "II", frame, 8)
        if not serial:
            raise ValueError("its serial is zero")
        at, end = FIXED_HEADER, FIXED_HEADER + length
        while at < end:
            at += -at % 8
            if frame[at] not in _KNOWN:
                # "Unknown fields must be ignored."
                _, at = marshalling.reader(order, "v")(frame, at + 1)
                continue
            name, type_, signature = _KNOWN[frame[at]]
            if frame[at + 1 : at + 4] != signature:
                raise ValueError(f"its {name} has another type than {type_}")
            fields[name], at = marshalling.reader(order, type_)(frame, at + 4)
        if at != end:
            raise ValueError("its header fields have another length than it says")
    except marshalling.MALFORMED as e:
        raise MalformedMessageError(f"malformed message: {e}") from e
    return serial, fields, end + -end % 8


def body(frame: bytes, start: int, signature: str, wrap: Wrap | None = None) -> list[Any]:
    """The arguments of a message whose body begins at ``start``.

    Args:
        wrap: see ``marshalling``; raises one of ``marshalling.MALFORMED``.

    Raises:
        MalformedMessageError: the frame does not hold them.
    """
    try:
        return marshalling.values(frame, start, _order(frame), signature, wrap)
    except marshalling.MALFORMED as e:
        raise MalformedMessageError(f"malformed message: {e}") from e


def _order(frame: bytes) -> str:
    return "<" if frame[0] == ord("l") else ">"
