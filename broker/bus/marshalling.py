"""Values to the bytes of a message's body and back (D-Bus specification, Marshaling).

The one reader and writer of both connections. Each type is parsed once, into a cached
function. Parsing it for each value, as dbus-next does, takes twice as long to read and four
times as long to write. The tests compare the results with dbus-next's.

Values are plain Python ones: a struct is a list, an array of bytes is bytes, a dictionary
is a dict. A variant is read as its value, or as the caller's ``wrap`` of its signature
and value. It is written from a pair of both, or from dbus-next's Variant.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from broker.errors import LimitsExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    # Appends a value.
    Writer = Callable[[bytearray, Any], None]
    # Takes the message and the offset of a value, before alignment; returns the value and the
    # offset of its end.
    Reader = Callable[[bytes, int], tuple[Any, int]]
    # Makes a variant of a complete type and a value.
    Wrap = Callable[[str, Any], Any]

# Type codes to struct's, for types of a fixed size, which is their alignment.
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
_PADDING: Final = [bytes(size) for size in range(8)]
_LENGTH: Final = struct.Struct("<I")
# "The maximum length of an array in bytes is 2 to the 26th power" (D-Bus specification,
# Basic types); a bus hangs up on the sender of a longer one.
MAX_ARRAY: Final = 1 << 26
# A limit, since peers may invent any number of signatures.
_KEPT: Final = 256
# The exceptions of a reader on invalid bytes. Past the end: IndexError and struct.error; a
# dictionary key of a container type: TypeError. UnicodeDecodeError is a ValueError.
MALFORMED: Final = (ValueError, IndexError, struct.error, TypeError, RecursionError)


@lru_cache(_KEPT)
def types(signature: str) -> tuple[str, ...]:
    """The complete types of a signature.

    Raises:
        ValueError: the signature is not valid.
    """
    found = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        found.append(signature[at:end])
        at = end
    return tuple(found)


def _end(signature: str, start: int) -> int:
    """The end of the complete type that begins at ``start``."""
    at = start
    while signature[at : at + 1] == "a":
        at += 1
    kind = signature[at : at + 1]
    # "Dict entry … occurs only as an array element type".
    if kind == "(" or (kind == "{" and at > start):
        depth = 0
        for index in range(at, len(signature)):
            depth += (signature[index] in "({") - (signature[index] in ")}")
            if not depth and index > at + 1:  # "Empty structures are not allowed"
                return index + 1
    elif kind in _FIXED or kind in _ALIGNMENT:
        return at + 1
    raise ValueError(f"not a signature: {signature!r}")


def _alignment(kind: str) -> int:
    return _ALIGNMENT.get(kind) or struct.calcsize(_FIXED[kind])


# -- writing -------------------------------------------------------------------------


def body(signature: str, values: Iterable[Any]) -> bytearray:
    """The bytes of a body with these values.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: they do not match the signature.
        LimitsExceeded: one of them is an array of more than 64 MiB.
    """
    out = bytearray()
    for each, value in zip(types(signature), values, strict=True):
        writer(each)(out, value)
    return out


@lru_cache(_KEPT)
def writer(signature: str) -> Writer:
    """A function that appends a value of a complete type; raises as ``body``."""
    kind = signature[0]
    if kind in _FIXED:
        return _fixed_writer(struct.Struct("<" + _FIXED[kind]))
    if kind == "a":
        return _array_writer(signature[1:])
    if kind in "({":
        return _struct_writer([writer(each) for each in types(signature[1:-1])])
    return {"s": _write_text, "o": _write_text, "g": _write_signature, "v": _write_variant}[kind]


def _fixed_writer(layout: struct.Struct) -> Writer:
    size, pack = layout.size, layout.pack

    def write(out: bytearray, value: Any) -> None:
        out += _PADDING[-len(out) % size]
        out += pack(value)

    return write


def _write_text(out: bytearray, value: str) -> None:
    r"""D-Bus strings are UTF-8.

    The system's strings (paths, the environment) need not be, and have surrogates in
    Python: such bytes are sent as ``\xff``.
    """
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogateescape")
        data = data.decode("utf-8", "backslashreplace").encode()
    out += _PADDING[-len(out) % 4]
    out += _LENGTH.pack(len(data))
    out += data
    out += b"\0"


def _write_signature(out: bytearray, value: str) -> None:
    out += bytes([len(value)]) + value.encode() + b"\0"


def _write_variant(out: bytearray, value: Any) -> None:
    inner, held = value if isinstance(value, tuple) else (value.signature, value.value)
    (whole,) = types(inner)
    _write_signature(out, whole)
    writer(whole)(out, held)


def _struct_writer(writers: list[Writer]) -> Writer:
    def write(out: bytearray, value: Any) -> None:
        out += _PADDING[-len(out) % 8]
        for write_member, member in zip(writers, value, strict=True):
            write_member(out, member)

    return write


def _array_writer(element: str) -> Writer:
    write_one = writer(element)
    alignment = _alignment(element[0])

    def write(out: bytearray, values: Any) -> None:
        out += _PADDING[-len(out) % 4]
        at = len(out)
        out += bytes(4)
        # "Padding … is not included in the array length", also in an empty array.
        out += _PADDING[-len(out) % alignment]
        start = len(out)
        if element == "y":
            out += bytes(values)
        else:
            for each in values.items() if element[0] == "{" else values:
                write_one(out, each)
        size = len(out) - start
        if size > MAX_ARRAY:
            raise LimitsExceeded(f"an array of {size} bytes is over the protocol's limit")
        _LENGTH.pack_into(out, at, size)

    return write


# -- reading -------------------------------------------------------------------------


def values(data: bytes, at: int, order: str, signature: str, wrap: Wrap | None = None) -> list[Any]:
    """The values of a body that begins at ``at``; raises as ``reader``."""
    found = []
    for each in types(signature):
        value, at = reader(order, each, wrap)(data, at)
        found.append(value)
    return found


@lru_cache(_KEPT)
def reader(order: str, signature: str, wrap: Wrap | None = None) -> Reader:
    """A function that reads a value of a complete type.

    It raises one of ``MALFORMED`` if the bytes hold no such value, and any exception of ``wrap``.

    Args:
        order: of bytes, as in ``struct``.
        wrap: makes a variant; without it, only the variant's value is returned.
    """
    kind = signature[0]
    length = struct.Struct(order + "I")
    if kind == "b":
        read_number = reader(order, "u", None)
        return lambda data, at: (bool((found := read_number(data, at))[0]), found[1])
    if kind in _FIXED:
        return _fixed_reader(struct.Struct(order + _FIXED[kind]))
    if kind in "so":
        return _text_reader(length)
    if kind == "g":
        return _read_signature
    if kind == "v":
        return _variant_reader(order, wrap)
    if kind in "({":
        return _struct_reader([reader(order, each, wrap) for each in types(signature[1:-1])])
    if signature == "ay":
        return _bytes_reader(length)
    element = signature[1:]
    read_one, alignment = reader(order, element, wrap), _alignment(element[0])
    if element[0] == "{":
        return _dictionary_reader(_array_reader(length, read_one, alignment))
    return _array_reader(length, read_one, alignment)


def _fixed_reader(layout: struct.Struct) -> Reader:
    size, unpack_from = layout.size, layout.unpack_from

    def read(data: bytes, at: int) -> tuple[Any, int]:
        at += -at % size
        return unpack_from(data, at)[0], at + size

    return read


def _text(data: bytes, start: int, size: int) -> tuple[str, int]:
    end = start + size
    if end >= len(data):  # its NUL is not counted
        raise IndexError("a string is longer than its message")
    return data[start:end].decode(), end + 1


def _text_reader(length: struct.Struct) -> Reader:
    def read(data: bytes, at: int) -> tuple[str, int]:
        at += -at % 4
        return _text(data, at + 4, length.unpack_from(data, at)[0])

    return read


def _read_signature(data: bytes, at: int) -> tuple[str, int]:
    return _text(data, at + 1, data[at])


def _variant_reader(order: str, wrap: Wrap | None) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        signature, at = _read_signature(data, at)
        (inner,) = types(signature)
        value, at = reader(order, inner, wrap)(data, at)
        return value if wrap is None else wrap(inner, value), at

    return read


def _struct_reader(readers: list[Reader]) -> Reader:
    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        at += -at % 8
        values = []
        for read_member in readers:
            value, at = read_member(data, at)
            values.append(value)
        return values, at

    return read


def _span(data: bytes, at: int, length: struct.Struct, alignment: int) -> tuple[int, int]:
    """The beginning and end of an array's elements."""
    at += -at % 4
    start = at + 4
    start += -start % alignment
    end = start + length.unpack_from(data, at)[0]
    if end > len(data):
        raise IndexError("an array is longer than its message")
    return start, end


def _bytes_reader(length: struct.Struct) -> Reader:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        start, end = _span(data, at, length, 1)
        return data[start:end], end

    return read


def _array_reader(length: struct.Struct, read_one: Reader, alignment: int) -> Reader:
    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        at, end = _span(data, at, length, alignment)
        values = []
        while at < end:
            value, at = read_one(data, at)
            values.append(value)
        return values, at

    return read


def _dictionary_reader(read_entries: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
        entries, at = read_entries(data, at)
        return dict(entries), at

    return read
