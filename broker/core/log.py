"""What a service has written lately: the newest lines, within bounds."""

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
# For each service: bytes of text in UTF-8, and lines, since an empty one takes
# some 200 bytes as well. A full log is a megabyte.
MOST_BYTES: Final = 256 * 1024
MOST_LINES: Final = 4096
# What of it goes into the report of a failed activation: lines, and characters of each.
LAST_LINES: Final = 10
LAST_WIDTH: Final = 240


class Entry(NamedTuple):
    """One line.

    Attributes:
        serial: 1 for the service's first line, and no number is left out.
        at: when the broker read it.
        activation: the number of the activation whose processes wrote it. Which of
            them it was, a pipe does not say.
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
        asked: somebody has read it, and wants to hear when there is more.
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
        # By stream, of the newest activation. Kept beside the lines, which a flood on
        # stdout drives out.
        self._newest = 0
        self._words: dict[str, str] = {}

    def extend(self, lines: Sequence[bytes], at: Instant, activation: int, stream: str) -> None:
        """Append lines; the oldest make room for them."""
        # Those that would have to go at once are only counted: a flood is mostly those.
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
        """The lines after a serial, of which the newest ``count`` (0 for all), oldest first.

        Returns:
            them, and how many lines after the serial had to make room for newer ones.
        """
        oldest = self.last - len(self._entries)
        # A serial is the caller's, and may be larger than any that there will be.
        first = min(max(oldest, serial, self.last - count if count else 0), self.last)
        return list(islice(self._entries, first - oldest, None)), max(0, oldest - serial)

    def last_lines(self, activation: int) -> list[str]:
        """The last lines of an activation, cut where they are very long."""
        own = (entry for entry in reversed(self._entries) if entry.activation == activation)
        return [_cut(entry.text) for entry in islice(own, LAST_LINES)][::-1]

    def last_words(self, activation: int) -> str:
        """The last line of the newest activation that says something, or nothing.

        Of stderr, if there is one: a program that ends writes out what it had kept
        back for stdout, behind its reason.
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
