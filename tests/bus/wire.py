"""D-Bus messages by hand, in both byte orders, also such as nobody may send.

Written from the specification and not with dbus-next, so that it can be held
against it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from broker.bus.codec import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable

CALL: Final = 1
RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4

PATH: Final = 1
INTERFACE: Final = 2
MEMBER: Final = 3
ERROR_NAME: Final = 4
REPLY_SERIAL: Final = 5
DESTINATION: Final = 6
SENDER: Final = 7
SIGNATURE: Final = 8

_FIXED: Final = {
    "y": "B",
    "b": "I",
    "n": "h",
    "q": "H",
    "i": "i",
    "u": "I",
    "h": "I",
    "x": "q",
    "t": "Q",
    "d": "d",
}
_ALIGNMENT: Final = {"s": 4, "o": 4, "a": 4, "g": 1, "v": 1, "(": 8, "{": 8}

Field = tuple[int, str, Any]
PING: Final[list[Field]] = [(PATH, "o", "/"), (MEMBER, "s", "Ping")]


def first(signature: str) -> str:
    """The first complete type of a signature."""
    if signature[0] == "a":
        return "a" + first(signature[1:])
    depth = 0
    for index, character in enumerate(signature):
        depth += (character in "({") - (character in ")}")
        if not depth:
            return signature[: index + 1]
    raise AssertionError(signature)


def types(signature: str) -> list[str]:
    """The complete types of a signature."""
    found = []
    while signature:
        found.append(first(signature))
        signature = signature[len(found[-1]) :]
    return found


class Writer:
    """Marshals values; ``order`` is ``<`` or ``>``."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.data = bytearray()

    def pad(self, alignment: int) -> None:
        """Zeros up to the next boundary."""
        self.data += bytes(-len(self.data) % alignment)

    def put(self, kind: str, value: Any) -> None:
        """One value of one complete type."""
        if kind in _FIXED:
            packed = struct.pack(self.order + _FIXED[kind], value)
            self.pad(len(packed))
            self.data += packed
            return
        self.pad(_ALIGNMENT[kind[0]])
        if kind in "so":
            encoded = value.encode()
            self.put("u", len(encoded))
            self.data += encoded + b"\0"
        elif kind == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            # A pair is not looked at, a Variant checks its value.
            pair = (value.signature, value.value) if isinstance(value, Variant) else value
            self.put("g", pair[0])
            self.put(*pair)
        elif kind[0] == "a":
            self._put_array(kind[1:], value.items() if kind[1] == "{" else value)
        else:
            for each, part in zip(types(kind[1:-1]), value, strict=True):
                self.put(each, part)

    def _put_array(self, kind: str, values: Iterable[Any]) -> None:
        self.put("u", 0)
        at = len(self.data)
        self.pad(struct.calcsize("=" + _FIXED[kind]) if kind in _FIXED else _ALIGNMENT[kind[0]])
        start = len(self.data)
        for value in values:
            self.put(kind, value)
        # "The array length … is the number of bytes … not including the padding
        # after the length."
        struct.pack_into(self.order + "I", self.data, at - 4, len(self.data) - start)


def body(signature: str, values: list[Any], order: str = "<") -> bytes:
    """The body of a message."""
    writer = Writer(order)
    for kind, value in zip(types(signature), values, strict=True):
        writer.put(kind, value)
    return bytes(writer.data)


def frame(
    kind: int,
    fields: list[Field],
    content: bytes = b"",
    *,
    order: str = "<",
    flags: int = 0,
    version: int = 1,
    serial: int = 1,
    length: int | None = None,
) -> bytes:
    """A message; ``length`` lies about the length of its body."""
    writer = Writer(order)
    writer.data += bytes([ord("l" if order == "<" else "B"), kind, flags, version])
    writer.put("u", len(content) if length is None else length)
    writer.put("u", serial)
    writer.put("a(yv)", [(code, (signature, value)) for code, signature, value in fields])
    writer.pad(8)
    return bytes(writer.data) + content


def call(
    path: str,
    interface: str | None,
    member: str,
    signature: str = "",
    values: list[Any] | None = None,
    *,
    serial: int = 1,
    flags: int = 0,
    sender: str | None = None,
    destination: str | None = None,
) -> bytes:
    """A method call."""
    fields: list[Field] = [(PATH, "o", path), (MEMBER, "s", member)]
    if interface is not None:
        fields.append((INTERFACE, "s", interface))
    if sender is not None:
        fields.append((SENDER, "s", sender))
    if destination is not None:
        fields.append((DESTINATION, "s", destination))
    if signature:
        fields.append((SIGNATURE, "g", signature))
    return frame(CALL, fields, body(signature, values or []), serial=serial, flags=flags)


def signal(member: str, signature: str = "", values: list[Any] | None = None) -> bytes:
    """A signal of ``org.example.Test``."""
    fields: list[Field] = [(PATH, "o", "/"), (INTERFACE, "s", "org.example.Test")]
    fields.append((MEMBER, "s", member))
    if signature:
        fields.append((SIGNATURE, "g", signature))
    return frame(SIGNAL, fields, body(signature, values or []))


def answer(reply_serial: int, signature: str = "", values: list[Any] | None = None) -> bytes:
    """A method return."""
    fields: list[Field] = [(REPLY_SERIAL, "u", reply_serial)]
    if signature:
        fields.append((SIGNATURE, "g", signature))
    return frame(RETURN, fields, body(signature, values or []))


def error(reply_serial: int, name: str, text: str | None = None) -> bytes:
    """An error."""
    fields: list[Field] = [(REPLY_SERIAL, "u", reply_serial), (ERROR_NAME, "s", name)]
    if text is None:
        return frame(ERROR, fields)
    return frame(ERROR, [*fields, (SIGNATURE, "g", "s")], body("s", [text]))
