"""Cuts a stream of bytes into frames of one message each."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from broker.errors import DBusError, InvalidArgs

if TYPE_CHECKING:
    from collections.abc import Iterator

# "The maximum length of a message, including header, header alignment padding,
# and body is 2 to the 27th power" (D-Bus specification, Message Format).
MAX_MESSAGE: Final = 1 << 27
FIXED_HEADER: Final = 16


class MalformedMessageError(DBusError):
    """A frame does not hold a valid message."""

    dbus_name = InvalidArgs.dbus_name


class Head(bytes):
    """The header of a message above the limit; the rest of it is never stored."""

    __slots__ = ()


class Splitter:
    """Cuts a stream of bytes into frames of one message each.

    Attributes:
        most: the limit for a message, in bytes. A longer one yields its ``Head``, or
            nothing if even that is longer.
    """

    def __init__(self) -> None:
        self.most = MAX_MESSAGE
        self._buffer = bytearray()
        self._skipped = 0  # bytes still to come of a message above the limit

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now, and heads.

        Raises:
            MalformedMessageError: the stream is not D-Bus, or a message exceeds the
                specification's maximum; nothing after it can be read.
        """
        if self._skipped:
            passed = min(self._skipped, len(data))
            self._skipped -= passed
            data = data[passed:]
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= FIXED_HEADER:
                end = start + self._length(start)
                long = end - start > self.most
                kept = self._head(start) if long else end
                if len(self._buffer) < kept:
                    break
                with memoryview(self._buffer) as view:
                    frame = bytes(view[start:kept])  # copied once: it may have 128 MiB
                start = end
                if not long:
                    yield frame
                    continue
                self._skipped = max(0, end - len(self._buffer))
                start -= self._skipped
                if frame:
                    yield Head(frame)
        finally:
            del self._buffer[:start]

    def _head(self, start: int) -> int:
        """The end of a long message's header; its beginning, if the header is too long itself."""
        order = "<" if self._buffer[start] == ord("l") else ">"
        (fields,) = struct.unpack_from(f"{order}I", self._buffer, start + 12)
        head: int = FIXED_HEADER + (fields + 7 & ~7)
        return start + head if head <= self.most else start

    def _length(self, start: int) -> int:
        order = {ord("l"): "<", ord("B"): ">"}.get(self._buffer[start])
        if order is None or self._buffer[start + 3] != 1:
            raise MalformedMessageError("the peer does not speak version 1 of the D-Bus protocol")
        body, _serial, fields = struct.unpack_from(f"{order}III", self._buffer, start + 4)
        total: int = FIXED_HEADER + (fields + 7 & ~7) + body
        if total > MAX_MESSAGE:
            raise MalformedMessageError(f"a message of {total} bytes is over the protocol's limit")
        return total
