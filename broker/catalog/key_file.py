"""The key-file format, as far as descriptors use it, and as strict as dbus-daemon.

The rules are those of ``bus/desktop-file.c`` in dbus 1.14, which refuses the whole file for one
bad line. A stricter reader would break services that work today; a more lenient one would start
services that the reference refuses, and hide a mistake from its author.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.core.printable import quoted

# As the reference: a lone CR ends a line too. Not str.splitlines(), which knows seven others.
_END_OF_LINE = re.compile(r"\r\n|\r|\n")
# Printable ASCII without the brackets (Desktop Entry Specification, "Group headers").
_GROUP_NAME = re.compile(r"[ -Z\\^-~]+")
_KEY = re.compile(r"[A-Za-z0-9-]+")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "\\": "\\"}


class KeyFileError(ValueError):
    """A file breaks the format: ``line`` (from 1) and ``reason``."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Value:
    """A key's value, unescaped, and its line."""

    text: str
    line: int


def read_group(data: bytes, name: str) -> dict[str, Value] | None:
    """Returns the keys of the group ``name`` in a file's content, or None if there is none.

    The first of a repeated key counts, and the first of a repeated group; the rest is checked too.
    A key with a locale (``Name[de]=``) is skipped.

    Raises:
        KeyFileError: The file breaks the format.
    """
    found: dict[str, Value] | None = None
    # The group for the next keys: `found`, another group, or, before any header, none.
    group: dict[str, Value] | None = None
    for number, line in enumerate(_END_OF_LINE.split(_decode(data)), start=1):
        if line.startswith("["):
            group = {}
            if _group_name(number, line) == name and found is None:
                found = group
        elif line.startswith("#") or not line.strip(" \t\f"):
            continue
        elif group is None:
            raise KeyFileError(number, "no group header such as [D-BUS Service] comes before this")
        else:
            _read_key(group, number, line)
    return found


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KeyFileError(_line_at(data, error.start), "not valid UTF-8") from error
    if text.startswith("\ufeff"):
        raise KeyFileError(1, "a byte order mark begins the file")
    nul = data.find(b"\0")
    if nul >= 0:
        raise KeyFileError(_line_at(data, nul), "contains a NUL")
    return text


def _line_at(data: bytes, offset: int) -> int:
    # Latin-1 decodes any byte, and keeps the line ends.
    return len(_END_OF_LINE.split(data[:offset].decode("latin-1")))


def _group_name(number: int, line: str) -> str:
    if line[-1] != "]":
        raise KeyFileError(number, f"{quoted(line)} is not a group header: it does not end in ]")
    name = line[1:-1]
    if _GROUP_NAME.fullmatch(name) is None:
        raise KeyFileError(number, f"{quoted(name)} is not a group name")
    return name


def _read_key(group: dict[str, Value], number: int, line: str) -> None:
    key = _KEY.match(line)
    if key is None:
        if line[0] in " \t":
            raise KeyFileError(number, "a blank comes before the key")
        raise KeyFileError(number, f"{quoted(line)} does not start with a key")
    # The specification allows blanks around `=`; to the reference, these are spaces, not tabs.
    rest = line[key.end() :]
    if rest.startswith("["):
        return
    rest = rest.lstrip(" ")
    if not rest:
        raise KeyFileError(number, f"{quoted(line)} has no =")
    if rest[0] != "=":
        raise KeyFileError(number, f"{quoted(rest[0])} comes between a key and its =")
    # No rstrip: trailing blanks belong to the value, in the reference too.
    text = _unescape(number, rest[1:].lstrip(" "))
    group.setdefault(key[0], Value(text, number))


def _unescape(number: int, text: str) -> str:
    def replacement(escape: re.Match[str]) -> str:
        if escape[1] not in _ESCAPED:
            raise KeyFileError(number, rf"{quoted(escape[0])} is not one of \s \t \n \r \\")
        return _ESCAPED[escape[1]]

    return _ESCAPE.sub(replacement, text)
