"""Messages in D-Bus's wire format, for programs that live a tenth of a second.

The daemon has dbus-next's marshalling (``codec``). To import that takes 80 ms,
half of them asyncio's, which whoever types ``dbus-activator list`` or presses
Tab would wait for each time: so here is what a caller of methods needs, in
nothing but ``struct``, and held against dbus-next by the tests.

Values are plain Python ones: a variant is read as what it holds, and written as
a pair of signature and value; a struct is a list, an array of bytes bytes, a
dictionary a dict.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, Final, NamedTuple

from broker.bus.frames import FIXED_HEADER, MalformedMessageError

# Message types (D-Bus specification, Message Format).
CALL: Final = 1
RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4

NO_REPLY_EXPECTED: Final = 0x1

# Type codes to struct's, for types of one size.
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
_FIELDS: Final = {
    1: "path",
    2: "interface",
    3: "member",
    4: "error_name",
    5: "reply_serial",
    6: "destination",
    7: "sender",
    8: "signature",
}
_CODES: Final = {
    "path": (1, "o"),
    "interface": (2, "s"),
    "member": (3, "s"),
    "error_name": (4, "s"),
    "reply_serial": (5, "u"),
    "destination": (6, "s"),
    "signature": (8, "g"),
}


class Received(NamedTuple):
    """A message that came in; fields that it does not have are empty or 0."""

    kind: int
    flags: int
    serial: int
    body: list[Any]
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""


@functools.lru_cache(maxsize=256)
def types(signature: str) -> tuple[str, ...]:
    """The complete types of a signature.

    Raises:
        ValueError: it is none.
    """
    found = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        found.append(signature[at:end])
        at = end
    return tuple(found)


def _end(signature: str, start: int) -> int:
    """Where the complete type that begins at ``start`` ends."""
    at = start
    while signature[at : at + 1] == "a":
        at += 1
    kind = signature[at : at + 1]
    if kind in ("(", "{"):
        depth = 0
        for index in range(at, len(signature)):
            depth += (signature[index] in "({") - (signature[index] in ")}")
            if not depth:
                return index + 1
    elif kind in _FIXED or kind in _ALIGNMENT:
        return at + 1
    raise ValueError(f"not a signature: {signature!r}")


def _alignment(kind: str) -> int:
    return _ALIGNMENT.get(kind) or struct.calcsize(_FIXED[kind])


# -- writing -------------------------------------------------------------------------


def encode(
    kind: int, serial: int, signature: str = "", body: tuple[Any, ...] = (), **fields: Any
) -> bytes:
    """The bytes of a message; ``fields`` are those of ``Received``.

    Raises:
        ValueError, struct.error: the body does not have the signature.
    """
    written = bytearray()
    for each, value in zip(types(signature), body, strict=True):
        _write(written, each, value)
    if signature:
        fields["signature"] = signature
    header = bytearray()
    for name, value in fields.items():
        code, each = _CODES[name]
        _pad(header, 8)
        header += bytes((code, 1, ord(each), 0))
        _write(header, each, value)
    fixed = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(written), serial, len(header))
    _pad(header, 8)
    return bytes(fixed + header + written)


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _write(out: bytearray, signature: str, value: Any) -> None:
    kind = signature[0]
    if kind in _FIXED:
        _pad(out, _alignment(kind))
        out += struct.pack("<" + _FIXED[kind], value)
    elif kind in "so":
        _pad(out, 4)
        data = value.encode("utf-8", "surrogateescape")
        out += struct.pack("<I", len(data)) + data + b"\0"
    elif kind == "g":
        out += bytes([len(value)]) + value.encode() + b"\0"
    elif kind == "a":
        _write_array(out, signature[1:], value)
    elif kind == "(":
        _pad(out, 8)
        for each, part in zip(types(signature[1:-1]), value, strict=True):
            _write(out, each, part)
    elif kind == "v":
        # What is written says its own type: (signature, value).
        inner, held = value
        (whole,) = types(inner)
        _write(out, "g", whole)
        _write(out, whole, held)
    else:
        raise ValueError(f"cannot write a value of type {signature}")


def _write_array(out: bytearray, element: str, values: Any) -> None:
    _pad(out, 4)
    at = len(out)
    out += bytes(4)
    _pad(out, _alignment(element[0]))
    start = len(out)
    if element == "y":
        out += bytes(values)
    elif element[0] == "{":
        key, value = types(element[1:-1])
        for each in values:
            _pad(out, 8)
            _write(out, key, each)
            _write(out, value, values[each])
    else:
        for each in values:
            _write(out, element, each)
    struct.pack_into("<I", out, at, len(out) - start)


# -- reading -------------------------------------------------------------------------


def decode(frame: bytes) -> Received:
    """The message in one whole frame.

    Raises:
        MalformedMessageError: the frame contradicts its own header.
    """
    order = "<" if frame[0] == ord("l") else ">"
    serial, length = struct.unpack_from(order + "II", frame, 8)
    reader = _Reader(frame, order, FIXED_HEADER)
    fields: dict[str, Any] = {}
    try:
        while reader.at < FIXED_HEADER + length:
            reader.align(8)
            code = frame[reader.at]
            reader.at += 1
            value = reader.read("v")
            if code in _FIELDS:
                fields[_FIELDS[code]] = value
        reader.align(8)
        body = [reader.read(each) for each in types(fields.get("signature", ""))]
    # IndexError and struct.error: past the end. UnicodeDecodeError is a ValueError.
    except (ValueError, IndexError, struct.error, TypeError, RecursionError) as e:
        raise MalformedMessageError(f"malformed message: {e}") from e
    return Received(kind=frame[1], flags=frame[2], serial=serial, body=body, **fields)


class _Reader:
    """Reads values one after the other."""

    __slots__ = ("_data", "_order", "at")

    def __init__(self, data: bytes, order: str, at: int) -> None:
        self.at = at
        self._data = data
        self._order = order

    def align(self, alignment: int) -> None:
        self.at += -self.at % alignment

    def _fixed(self, kind: str) -> Any:
        format_ = self._order + _FIXED[kind]
        size = struct.calcsize(format_)
        self.at += -self.at % size
        (value,) = struct.unpack_from(format_, self._data, self.at)
        self.at += size
        return value

    def _text(self, size: int) -> str:
        start, self.at = self.at, self.at + size + 1
        if self.at > len(self._data):
            raise IndexError("a string is longer than its message")
        return self._data[start : start + size].decode()

    def read(self, signature: str) -> Any:
        kind = signature[0]
        if kind in "so":
            return self._text(self._fixed("u"))
        if kind == "b":
            return bool(self._fixed("u"))
        if kind in _FIXED:
            return self._fixed(kind)
        if kind in "gv":
            size = self._data[self.at]
            self.at += 1
            text = self._text(size)
            if kind == "g":
                return text
            (inner,) = types(text)
            return self.read(inner)
        if kind == "a":
            return self._array(signature[1:])
        self.align(8)
        return [self.read(each) for each in types(signature[1:-1])]

    def _array(self, element: str) -> Any:
        size = self._fixed("u")
        self.align(_alignment(element[0]))
        end = self.at + size
        if end > len(self._data):
            raise IndexError("an array is longer than its message")
        if element == "y":
            start, self.at = self.at, end
            return self._data[start:end]
        if element[0] == "{":
            key, value = types(element[1:-1])
            found = {}
            while self.at < end:
                self.align(8)
                name = self.read(key)
                found[name] = self.read(value)
            return found
        values = []
        while self.at < end:
            values.append(self.read(element))
        return values
