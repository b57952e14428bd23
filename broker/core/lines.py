"""Bytes as they come from a pipe, made into lines of text."""

from __future__ import annotations

from typing import Final

from broker.core.printable import KEPT, printable

# In bytes. A longer line becomes several: so much is held of each that has no end
# yet, and to people it is no line any more.
LONGEST: Final = 8192
# At the end of a line that goes on in the next.
MARK: Final = "…"
_KEPT: Final = KEPT


class Lines:
    """One stream's lines: the same ones however its bytes are split on the way."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole with these bytes, without their newlines."""
        *whole, rest = (self._rest + data).split(b"\n")
        lines: list[bytes] = []
        for line in whole:
            if len(line) > LONGEST:
                lines += _pieces(line)
            else:
                lines.append(line)
        *pieces, self._rest = _pieces(rest)
        return lines + pieces

    def finish(self) -> list[bytes]:
        """The line that has no newline and will get none, if there is one."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces that are not too long; all but the last are marked."""
    pieces = []
    start = 0
    while len(line) - start > LONGEST:
        end = start + LONGEST
        # Not within a character, of which the bytes after the first are 10xxxxxx.
        while end > start + LONGEST - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[start:end] + MARK.encode())
        start = end
    return [*pieces, line[start:]]


def text(line: bytes) -> str:
    r"""A line that can be shown: what is no UTF-8, or would drive a terminal, is ``\xff``."""
    return printable(line.decode("utf-8", "backslashreplace"), keep=_KEPT)
