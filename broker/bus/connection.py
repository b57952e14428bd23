"""One connection to a bus or to a peer, on asyncio's transports.

asyncio buffers the bytes that the socket does not take at once, and goes on when
it is writable, so a burst never ends a connection. Above its high-water mark we stop
reading until the peer has caught up: a client that floods us with calls waits for
its answers, and they do not pile up here.

File descriptors are never negotiated with a bus, so a peer cannot send us any, and none
leak. They are negotiated on dbus-broker's controller socket, for the one message that
carries the listening socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self, cast

from broker.bus.authentication import BEGIN, Authentication
from broker.bus.calls import CALL_TIMEOUT, Calls, within
from broker.bus.codec import (
    Head,
    MalformedMessageError,
    Message,
    MessageType,
    Splitter,
    decode,
    encode,
)
from broker.bus.frames import MAX_MESSAGE
from broker.errors import (
    Disconnected,
    LimitsExceeded,
    NoReply,
    RemoteError,
    UnknownMethod,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

# For one read; a message of an activation has a tenth of a kilobyte.
READ_BYTES: Final = 65536
# For one message from any sender: no call or answer of ours is nearly as long.
TAKEN: Final = 8 << 20

type_return = MessageType.METHOD_RETURN
type_error = MessageType.ERROR


class Connection(Calls, asyncio.BufferedProtocol):
    """A D-Bus connection; made by ``to_bus`` or ``to_peer``, never by the constructor.

    Attributes:
        unique_name: the name that the bus gave us; empty towards a peer.
        guid: of the server, 32 hex digits.
        largest: the peer's maximum message size in bytes; it hangs up on a larger one.
        on_message: gets every method call and signal, in the order of arrival,
            from within the event loop; it must not block. Without one, calls
            are answered with UnknownMethod.
        on_closed: called once, when the connection has ended for any reason.
        on_writable: called when the peer has caught up after a backlog.
        sift: gets the frames of one read and returns those to decode.
    """

    def __init__(self, sock: socket.socket, *, pass_fds: bool) -> None:
        super().__init__()
        self.unique_name = ""
        self.guid = ""
        self.largest = MAX_MESSAGE
        self.on_message: Callable[[Message], None] = self.refuse
        self.on_closed: Callable[[], None] = lambda: None
        self.on_writable: Callable[[], None] = lambda: None
        self.sift: Callable[[Iterable[bytes]], Iterable[bytes]] = iter
        self._sock = sock
        self._pass_fds = pass_fds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._authentication = Authentication(pass_fds=pass_fds)
        self._splitter = Splitter()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._closing = False  # by us, not by the peer
        self._writable = asyncio.Event()
        self._writable.set()
        self._corked: bytearray | None = None
        self._serial = 0

    @classmethod
    async def to_bus(cls, sock: socket.socket, *, timeout: float = CALL_TIMEOUT) -> Self:  # noqa: ASYNC109
        """Authenticate on a connected socket, and say Hello; we take over the socket.

        Raises:
            Disconnected: the peer closed the connection, or refused us.
            NoReply: it was silent for ``timeout`` seconds.
        """
        self = await cls._open(sock, pass_fds=False, timeout=timeout)
        try:
            answer = await self.call_bus("Hello", timeout=timeout)
            if len(answer) != 1 or not isinstance(answer[0], str):
                raise Disconnected(
                    "the server is not a message bus: its answer to Hello has no name"
                )
            self.unique_name = answer[0]
        except RemoteError as e:
            self.close()
            raise Disconnected(f"the bus refused us: {str(e) or e.name}") from e
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    async def to_peer(cls, sock: socket.socket, *, timeout: float = CALL_TIMEOUT) -> Self:  # noqa: ASYNC109
        """Authenticate towards a peer that is not a bus: without Hello and a name.

        Raises: the same as ``to_bus``.
        """
        return await cls._open(sock, pass_fds=True, timeout=timeout)

    @classmethod
    async def _open(cls, sock: socket.socket, *, pass_fds: bool, timeout: float) -> Self:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self = cls(sock, pass_fds=pass_fds)
        try:
            await loop.create_unix_connection(lambda: self, sock=sock)
            if not await within(timeout, self._ready):
                raise NoReply(f"no answer to the authentication within {timeout:g} s")
            self._ready.result()
        except BaseException:
            self._ready.cancel()  # no longer awaited
            self.close()
            raise
        return self

    # -- asyncio.BufferedProtocol ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the authentication."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._authentication.opening)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Our own read buffer: asyncio would map and unmap 256 KiB for each message."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Authentication lines first, then messages."""
        data = bytes(self._buffer[:nbytes])
        if not self._ready.done():
            try:
                rest = self._authentication.feed(data)
            except Disconnected as e:
                self._ready.set_exception(e)
                self.close()
                return
            if rest is None:
                return
            self._write(BEGIN)
            self.guid = self._authentication.guid
            self._ready.set_result(None)
            data = rest
        try:
            for frame in self.sift(self._splitter.feed(data)):
                self._read_message(frame)
                if self._closing:
                    break  # by a handler, which expects nothing more
        except MalformedMessageError as e:
            log.error("closing the connection to %s: %s", self.guid, e)
            self.close()

    def eof_received(self) -> None:
        """End at once: asyncio would wait until the peer takes the queued messages."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give every pending call an error: a call never outlives its connection."""
        reason = Disconnected(f"the connection has ended: {exc or 'closed'}")
        if not self._ready.done():
            self._ready.set_exception(reason)
        self._writable.set()
        self._answers.give_up(reason)
        if not self._gone.done():
            self._gone.set_result(None)
            self.on_closed()

    def pause_writing(self) -> None:
        """The peer has a backlog: stop reading its calls."""
        assert self._transport is not None
        self._writable.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        assert self._transport is not None
        self._writable.set()
        self._transport.resume_reading()
        self.on_writable()

    # -- reading ---------------------------------------------------------------

    def _read_message(self, frame: bytes) -> None:
        try:
            message = decode(frame)
        except MalformedMessageError as e:
            # The frame's length was right, so the next message is readable: the
            # connection goes on, and the sender gets no answer.
            log.warning("ignoring a message: %s", e)
            return
        if message is None:
            return
        if isinstance(frame, Head):
            self._refuse_long(message)
            return
        if message.message_type in (type_return, type_error):
            self._answers.take(message)
            return
        if message.message_type is MessageType.SIGNAL:
            self._answers.hear(message)
        self.on_message(message)

    def take_at_most(self, size: int) -> None:
        """Refuse calls that are longer, and drop other long messages, without storing them."""
        self._splitter.most = size

    def _refuse_long(self, message: Message) -> None:
        if message.message_type is MessageType.METHOD_CALL:
            text = f"a call of more than {self._splitter.most} bytes is not read"
            self.reply_error(message, LimitsExceeded(text))
        else:
            log.warning("ignoring a message that is too long, from %s", message.sender)

    def refuse(self, message: Message) -> None:
        """Answer a call without a handler: spare its sender the timeout."""
        if message.message_type is MessageType.METHOD_CALL:
            self.reply_error(message, UnknownMethod("this connection serves no objects"))

    # -- writing ---------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or is about to."""
        return self._transport is None or self._transport.is_closing()

    @property
    def write_backlog(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    @property
    def is_writable(self) -> bool:
        """Whether the backlog is below the high-water mark."""
        return self._writable.is_set()

    async def wait_writable(self) -> None:
        """Return when the peer has caught up, or has gone."""
        await self._writable.wait()

    def send(self, message: Message) -> int:
        """Queue a message and return its serial; dropped if the connection has ended.

        Raises:
            LimitsExceeded: the message exceeds the peer's maximum, and is not sent.
        """
        serial = message.serial = self._next_serial()
        if not self.closed:
            data = encode(message)
            if len(data) > self.largest:
                raise LimitsExceeded(f"a message of {len(data)} bytes is over the bus's limit")
            self._write(data)
        return serial

    def _write(self, data: bytes | bytearray) -> None:
        if self._corked is None:
            cast("asyncio.Transport", self._transport).write(data)
        else:
            self._corked += data

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """Messages sent within this context leave at its end, in one system call."""
        self._corked = bytearray()
        try:
            yield
        finally:
            data, self._corked = self._corked, None
            if data and not self.closed:
                self._write(data)

    def send_with_fds(self, message: Message, fds: Iterable[int]) -> int:
        """Send a message with descriptors at once; they stay open here.

        Only for a connection without a backlog: asyncio's transports carry no
        descriptors, and this message must not overtake queued ones.

        Raises:
            Disconnected: the peer has gone, or does not read.
        """
        assert self._pass_fds
        assert self.write_backlog == 0
        serial = message.serial = self._next_serial()
        message.unix_fds = list(fds)
        data = encode(message)
        try:
            sent = socket.send_fds(self._sock, [data], message.unix_fds)
        except OSError as e:
            raise Disconnected(f"cannot pass descriptors: {os.strerror(e.errno or 0)}") from e
        # The descriptors went with the first byte; the rest, if any, may be queued.
        cast("asyncio.Transport", self._transport).write(data[sent:])
        return serial

    def _next_serial(self) -> int:
        self._serial = self._serial % 0xFFFFFFFF + 1
        return self._serial

    # -- the end ---------------------------------------------------------------

    def close(self) -> None:
        """End the connection and drop queued messages. May be called again."""
        self._closing = True
        if self._transport is None:
            self._sock.close()
        elif not self._gone.done():
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection has ended and its socket is closed."""
        await asyncio.shield(self._gone)
