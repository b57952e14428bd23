"""The newest lines of a service's output, within bounds."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.core.lines import MARK, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.core.clock import Instant

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
# Per service: bytes of text in UTF-8, and lines, since an empty line takes some
# 200 bytes as well. A full log is a megabyte.
MOST_BYTES: Final = 256 * 1024
MOST_LINES: Final = 4096
# The part that the report of a failed activation gets: lines, and characters of each.
LAST_LINES: Final = 10
LAST_WIDTH: Final = 240


class Entry(NamedTuple):
    """One line.

    Attributes:
        serial: 1 for the service's first line, without gaps.
        at: when the broker read it.
        activation: the number of the activation that wrote it. A pipe does not say
            which of its processes it was.
        stream: stdout or stderr.
    """

    serial: int
    at: Instant
    activation: int
    stream: str
    text: str


class Log:
    """The newest lines of a service, of all its activations.

    Attributes:
        service: its name.
        last: the serial of the newest line; 0 if there was none.
        asked: a client has read it, and wants to hear of new lines.
    """

    def __init__(
        self, service: str, most_bytes: int = MOST_BYTES, most_lines: int = MOST_LINES
    ) -> None:
        self.service = service
        self.last = 0
        self.asked = False
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        # The last words of the newest activation, by stream. Kept apart from the lines,
        # since a flood on stdout would drive them out.
        self._newest = 0
        self._words: dict[str, str] = {}

    def extend(self, lines: Sequence[bytes], at: Instant, activation: int, stream: str) -> None:
        """Append lines; the oldest make room for them."""
        # Lines that would be dropped at once are only counted: most of a flood is such.
        unread = max(0, len(lines) - self._most_lines)
        self.last += unread
        for line in islice(lines, unread, None):
            self.last += 1
            entry = Entry(self.last, at, activation, stream, text(line))
            self._entries.append(entry)
            self._bytes += _size(entry)
            while self._bytes > self._most_bytes or len(self._entries) > self._most_lines:
                self._bytes -= _size(self._entries.popleft())
        self._note_words(lines, activation, stream)

    def after(self, serial: int, count: int = 0) -> tuple[list[Entry], int]:
        """The newest ``count`` lines after a serial (0 for all), oldest first.

        Returns:
            the lines, and how many lines after the serial were dropped for newer ones.
        """
        oldest = self.last - len(self._entries)
        # The serial comes from the caller, and may be larger than any of ours.
        first = min(max(oldest, serial, self.last - count if count else 0), self.last)
        return list(islice(self._entries, first - oldest, None)), max(0, oldest - serial)

    def last_lines(self, activation: int) -> list[str]:
        """The last lines of an activation; very long ones are cut."""
        own = (entry for entry in reversed(self._entries) if entry.activation == activation)
        return [_cut(entry.text) for entry in islice(own, LAST_LINES)][::-1]

    def last_words(self, activation: int) -> str:
        """The last line of the newest activation that is not blank; empty if it has none.

        A line of stderr is preferred: a program flushes its buffered stdout at its
        end, after it has written its reason to stderr.
        """
        words = self._words if activation == self._newest else {}
        return words.get(STDERR) or words.get(STDOUT, "")

    def _note_words(self, lines: Sequence[bytes], activation: int, stream: str) -> None:
        if activation > self._newest:
            self._newest = activation
            self._words.clear()
        said = next((line for line in reversed(lines) if line.strip()), None)
        if said is not None and activation == self._newest:
            self._words[stream] = _cut(text(said).strip())


def _size(entry: Entry) -> int:
    return len(entry.text) if entry.text.isascii() else len(entry.text.encode())


def _cut(line: str) -> str:
    return line if len(line) <= LAST_WIDTH else line[:LAST_WIDTH] + MARK
