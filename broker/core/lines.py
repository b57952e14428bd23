"""Splits the bytes that arrive from a pipe into lines of text."""

from __future__ import annotations

from typing import Final

from broker.core.printable import KEPT, printable

# In bytes. A longer line becomes several: each unfinished line may take this much
# memory, and people do not read longer ones.
LONGEST: Final = 8192
# At the end of a line that continues in the next.
MARK: Final = "…"
_KEPT: Final = KEPT


class Lines:
    """One stream's lines, the same for any split of its bytes into reads."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their newlines."""
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
        """The last line, if the stream ended without a newline."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces of bounded length; all but the last are marked."""
    pieces = []
    start = 0
    while len(line) - start > LONGEST:
        end = start + LONGEST
        # Not within a character: its bytes after the first are 10xxxxxx.
        while end > start + LONGEST - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[start:end] + MARK.encode())
        start = end
    return [*pieces, line[start:]]


def text(line: bytes) -> str:
    r"""A line that can be shown: invalid UTF-8 and control characters become ``\xff``."""
    return printable(line.decode("utf-8", "backslashreplace"), keep=_KEPT)
