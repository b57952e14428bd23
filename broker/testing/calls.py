"""Checks the arguments of a test's call before it is sent.

A bus silently disconnects a client that sends an invalid name or value: the test would
only learn that its bus has gone.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, Final

from broker.bus import marshalling
from broker.catalog.names import is_bus_name

_LONGEST: Final = 255
_WORD: Final = "[A-Za-z_][A-Za-z0-9_]*"
# D-Bus specification, Valid Object Paths and Valid Names.
_PATH: Final = re.compile("/|(?:/[A-Za-z0-9_]+)+")
_INTERFACE: Final = re.compile(rf"{_WORD}(?:\.{_WORD})+")
_MEMBER: Final = re.compile(_WORD)
_UNIQUE: Final = re.compile(r":[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
# A dict entry "must occur as an array element type", and its key is of a basic type.
_BAD_ENTRY: Final = re.compile(r"(?<!a)\{|\{[^ybnqiuxtdsog]")
# The integers: the least and the largest.
_RANGES: Final = {
    kind: (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    for kind, bits, signed in (
        ("y", 8, False),
        ("n", 16, True),
        ("q", 16, False),
        ("i", 32, True),
        ("u", 32, False),
        ("x", 64, True),
        ("t", 64, False),
    )
}
_WANTED: Final = {
    "b": "True or False",
    "d": "a number",
    "s": "a string without NUL",
    "o": "an object path",
    "g": "a signature",
    "v": "a pair of signature and value",
    "h": "possible: descriptors cannot be sent",
    "a": "a list",
    "(": "a tuple of that length",
}


def check(
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    arguments: tuple[Any, ...],
) -> None:
    """Check all parts of a call.

    Raises:
        ValueError: a name, the path or the signature is not valid.
        TypeError: the arguments do not match the signature.
    """
    for value, valid, kind in (
        (destination, is_bus_name(destination) or _is(_UNIQUE, destination), "a name on a bus"),
        (path, _PATH.fullmatch(path), "an object path"),
        (interface, _is(_INTERFACE, interface), "an interface"),
        (member, _is(_MEMBER, member), "a method"),
    ):
        if not valid:
            raise ValueError(f"{value!r} is not {kind}")
    if not isinstance(signature, str) or not _is_signature(signature):
        raise ValueError(f"{member}: {signature!r}, before the arguments, is not a D-Bus signature")
    types = marshalling.types(signature)
    if len(types) != len(arguments):
        plural = "s" * (len(types) != 1)
        raise TypeError(
            f"{member}: the signature {signature!r} has {len(types)} argument{plural}, "
            f"the call {len(arguments)}"
        )
    for number, (kind, value) in enumerate(zip(types, arguments, strict=True), 1):
        if found := _misfit(kind, value):
            inner, wrong = found
            within = f" in {reprlib.repr(value)}" if wrong is not value else ""
            raise TypeError(
                f"{member}: argument {number} has the type {kind!r}, but "
                f"{reprlib.repr(wrong)}{within} is not {_wanted(inner)}"
            )


def _is(form: re.Pattern[str], text: str) -> bool:
    return len(text) <= _LONGEST and form.fullmatch(text) is not None


def _is_signature(text: str) -> bool:
    try:
        for each in marshalling.types(text):
            marshalling.writer(each)
    except (ValueError, RecursionError):
        return False
    return len(text) <= _LONGEST and not _BAD_ENTRY.search(text)


def _wanted(kind: str) -> str:
    if kind in _RANGES:
        return "an integer from {} to {}".format(*_RANGES[kind])
    if kind == "ay":
        return "bytes"
    return "a dictionary" if kind.startswith("a{") else _WANTED[kind[0]]


def _misfit(kind: str, value: Any) -> tuple[str, Any] | None:
    """The innermost value that does not match its type, with the type; None if all match."""
    if not _has_shape(kind, value):
        return kind, value
    parts: list[tuple[str, Any]] = []
    if kind.startswith("a{"):
        of_key, of_value = marshalling.types(kind[2:-1])
        for key, each in value.items():
            parts += [(of_key, key), (of_value, each)]
    elif kind[0] == "a" and not isinstance(value, bytes | bytearray):
        parts = [(kind[1:], each) for each in value]
    elif kind[0] == "(":
        parts = list(zip(marshalling.types(kind[1:-1]), value, strict=True))
    elif kind == "v":
        parts = [_of_variant(value)]
    return next((found for part in parts if (found := _misfit(*part))), None)


def _has_shape(kind: str, value: Any) -> bool:
    """Whether a value is of its type, without a check of nested values."""
    if kind in _RANGES:
        low, high = _RANGES[kind]
        return isinstance(value, int) and low <= value <= high
    if kind[0] == "a":
        if kind[1] == "{":
            return isinstance(value, Mapping)
        # A string is one value, and an iterator can be read only once, so not for a check.
        if isinstance(value, str | Mapping) or not isinstance(value, Collection):
            return False
        return kind == "ay" or not isinstance(value, bytes | bytearray)
    if kind[0] == "(":
        return isinstance(value, list | tuple) and len(value) == len(marshalling.types(kind[1:-1]))
    if kind == "v":
        signature, _ = _of_variant(value)
        return _is_signature(signature) and len(marshalling.types(signature)) == 1
    text = isinstance(value, str) and "\0" not in value
    return {
        "b": isinstance(value, int) and value in (0, 1),
        "d": isinstance(value, int | float),
        "s": text,
        "o": text and bool(_PATH.fullmatch(value)),
        "g": text and _is_signature(value),
        "h": False,
    }[kind]


def _of_variant(value: Any) -> tuple[str, Any]:
    """The signature and value of a variant argument; an empty signature if it is not valid."""
    if isinstance(value, tuple):
        pair = value if len(value) == 2 else ("", None)
    else:  # dbus-next's
        pair = getattr(value, "signature", ""), getattr(value, "value", None)
    return (pair[0], pair[1]) if isinstance(pair[0], str) else ("", None)
