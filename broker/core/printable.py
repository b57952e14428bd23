"""Makes foreign text fit for a message: one line, no control characters, valid UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 4096
"""Bytes of UTF-8 that a command line, or the text of an error, may have on the bus."""
_LONGEST_QUOTE = 80
_CUT = "…"
# A tab only moves the cursor, and French and Japanese are full of spaces that
# isprintable() refuses: no-break, narrow no-break, ideographic. (Not written by
# name: Python would import its database of characters for that.)
KEPT = "\t\u00a0\u202f\u3000"


def printable(text: str, keep: str = "") -> str:
    r"""Returns ``text`` with every unprintable character as an escape.

    A file's name may hold any bytes but NUL and ``/``. Invalid UTF-8 reaches Python as lone
    surrogates, which a log, stderr or a D-Bus string cannot take; a newline would forge a second
    message, an ESC would reach the terminal. ``\udcff`` and ``\n`` in the result are harmless.
    The characters in ``keep`` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def quoted(text: str) -> str:
    """Returns ``text`` in quotes, escaped as a Python literal, and cut if it is very long.

    A value may be as long as its file, and the message goes to each waiting caller.
    """
    if len(text) <= _LONGEST_QUOTE:
        return repr(text)
    return repr(text[:_LONGEST_QUOTE]) + _CUT


def bounded(text: str) -> str:
    """Returns ``text``, cut to ``LONGEST`` bytes with an ellipsis, which is counted."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= LONGEST:
        return text
    return data[: LONGEST - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def bounded_words(words: Sequence[str]) -> tuple[str, ...]:
    """Returns a command line, cut in the same way; each word counts one byte extra."""
    return tuple(bounded("\0".join(words)).split("\0")) if words else ()
