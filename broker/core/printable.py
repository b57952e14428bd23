"""Text of others made fit for a message: one line, no control characters, valid UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 4096
"""Bytes of UTF-8 that a command line, or the text of an error, may have on the bus."""
_LONGEST_QUOTE = 80
_CUT = "…"
# A tab moves nothing but the cursor, and French and Japanese are full of spaces
# that isprintable() does not let pass: no-break, narrow no-break, ideographic. (Not by
# their names, for which Python imports its database of characters.)
KEPT = "\t\u00a0\u202f\u3000"


def printable(text: str, keep: str = "") -> str:
    r"""Returns ``text`` with every character that is not printable as an escape.

    A file's name is any bytes but NUL and ``/``. Bytes that are no UTF-8 reach Python as lone
    surrogates, on which a log, stderr or a D-Bus string would fail; a newline would forge a second
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
    """Returns ``text`` in quotes, escaped as a Python literal, and cut where it is very long.

    A value may be as long as its file, and a message is sent to each waiting caller.
    """
    if len(text) <= _LONGEST_QUOTE:
        return repr(text)
    return repr(text[:_LONGEST_QUOTE]) + _CUT


def bounded(text: str) -> str:
    """Returns ``text``, cut to ``LONGEST`` bytes; then an ellipsis, which is counted, ends it."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= LONGEST:
        return text
    return data[: LONGEST - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def bounded_words(words: Sequence[str]) -> tuple[str, ...]:
    """Returns a command line, cut in the same way; each word counts for a byte more."""
    return tuple(bounded("\0".join(words)).split("\0")) if words else ()
