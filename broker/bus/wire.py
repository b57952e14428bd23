"""Messages in D-Bus's wire format, for programs that live a tenth of a second.

The daemon has dbus-next's messages (``codec``). To import those takes 80 ms, half
of them asyncio's, which whoever types ``dbus-activator list`` or presses Tab would
wait for each time: so here is what a caller of methods needs, held against
dbus-next by the tests. Values are as in ``marshalling``.
"""

from __future__ import annotations

import struct

from broker.bus import marshalling
from broker.bus.frames import FIXED_HEADER, MalformedMessageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

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
_NAMES: Final = {code: name for name, (code, _type) in FIELDS.items()}
_PROTOCOL_VERSION: Final = 1
# IndexError and struct.error: past the end. UnicodeDecodeError is a ValueError.
_MALFORMED: Final = (ValueError, IndexError, struct.error, TypeError, RecursionError)


class Received:
    """A message that came in; fields that it does not have are empty or 0.

    No NamedTuple: typing is imported for it, and half a millisecond goes into its making.
    """

    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""

    def __init__(self, frame: bytes, fields: dict[str, Any], end: int) -> None:
        self.kind = frame[1]
        self.flags = frame[2]
        self.serial: int = struct.unpack_from(_order(frame) + "I", frame, 8)[0]
        self.size = len(frame)
        self._frame = frame
        self._end = end  # of the header, unpadded
        self._body: list[Any] | None = None
        self.__dict__ |= fields

    @property
    def body(self) -> list[Any]:
        """The arguments, read when they are asked for; raises MalformedMessageError."""
        if self._body is None:
            self._body = _read_body(self._frame, self._end, self.signature)
            self._frame = b""
        return self._body


def encode(
    kind: int, serial: int, signature: str = "", body: tuple[Any, ...] = (), **fields: Any
) -> bytes:
    """The bytes of a message; ``fields`` are those of ``Received``.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: the body does not have the signature.
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

    Raises:
        MalformedMessageError: the frame contradicts its own header.
    """
    message = read_header(frame)
    message.body  # noqa: B018 - it is read, and kept
    return message


def read_header(frame: bytes) -> Received:
    """As ``decode``, for a message that may be nobody's: its body is read when it is wanted.

    Raises:
        MalformedMessageError: the header does. Of the body, ``body`` raises it.
    """
    order = _order(frame)
    (length,) = struct.unpack_from(order + "I", frame, 12)
    fields: dict[str, Any] = {}
    at = FIXED_HEADER
    try:
        while at < FIXED_HEADER + length:
            at += -at % 8
            code = frame[at]
            value, at = marshalling.reader(order, "v")(frame, at + 1)
            if code in _NAMES:
                fields[_NAMES[code]] = value
    except _MALFORMED as e:
        raise MalformedMessageError(f"malformed message: {e}") from e
    return Received(frame, fields, at)


def _read_body(frame: bytes, at: int, signature: str) -> list[Any]:
    order = _order(frame)
    at += -at % 8
    body = []
    try:
        for each in marshalling.types(signature):
            value, at = marshalling.reader(order, each)(frame, at)
            body.append(value)
    except _MALFORMED as e:
        raise MalformedMessageError(f"malformed message: {e}") from e
    return body


def _order(frame: bytes) -> str:
    return "<" if frame[0] == ord("l") else ">"
