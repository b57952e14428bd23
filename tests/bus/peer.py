"""The other end of a socket pair, and a server, both spoken by hand."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from broker.bus.codec import Message, Splitter, decode
from broker.bus.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GUID: Final = "0123456789abcdef0123456789abcdef"
AUTHENTICATION: Final = f"DATA\r\nOK {GUID}\r\n".encode()
# Longer than anything here takes; whoever needs it hangs.
PATIENCE: Final = 10.0


class Peer:
    """Speaks over one end of a socket pair what the test tells it to, and nothing else."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._messages: deque[Message] = deque()

    async def read_lines(self, last: bytes) -> bytes:
        """What comes up to a line of the authentication."""
        data = b""
        while not data.endswith(last + b"\r\n"):
            chunk = await self._loop.sock_recv(self.sock, 1)
            assert chunk, data
            data += chunk
        return data

    async def authenticate(self, *, fds: bool = True) -> None:
        """Let the other side in."""
        await self.read_lines(b"NEGOTIATE_UNIX_FD" if fds else b"DATA")
        await self.write(AUTHENTICATION + (b"AGREE_UNIX_FD\r\n" if fds else b""))
        await self.read_lines(b"BEGIN")

    async def write(self, data: bytes) -> None:
        """All of it, however long it takes."""
        await self._loop.sock_sendall(self.sock, data)

    async def read(self) -> Message:
        """The next message."""
        while not self._messages:
            data = await self._loop.sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            for frame in self._splitter.feed(data):
                message = decode(frame)
                assert message is not None
                self._messages.append(message)
        return self._messages.popleft()

    async def read_end(self) -> bytes:
        """What is left up to the end of the stream."""
        data = b""
        try:
            while chunk := await self._loop.sock_recv(self.sock, 1 << 16):
                data += chunk
        except ConnectionResetError:
            # The kernel's word for an end with something of ours unread.
            pass
        return data

    def close(self) -> None:
        """Go away."""
        self.sock.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection and its authenticated peer."""
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)
    try:
        connection, _ = await asyncio.gather(
            Connection.to_peer(ours, timeout=PATIENCE), peer.authenticate()
        )
        try:
            yield connection, peer
        finally:
            connection.close()
            await connection.wait_closed()
    finally:
        peer.close()


def open_fds() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


class Log(list[Any]):
    """A list that can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def append(self, item: Any) -> None:
        """Add an entry and wake the waiters."""
        super().append(item)
        self._changed.set()

    async def until(self, enough: Callable[[Log], bool]) -> None:
        """Return when the entries suffice."""
        async with asyncio.timeout(PATIENCE):
            while not enough(self):
                self._changed.clear()
                await self._changed.wait()

    async def until_length(self, length: int) -> None:
        """Return when there is this number of entries."""
        await self.until(lambda log: len(log) >= length)
