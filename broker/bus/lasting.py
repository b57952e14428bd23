"""A connection to our bus that reconnects when it is lost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from broker.bus import address
from broker.bus.calls import CALL_TIMEOUT
from broker.bus.connection import TAKEN, Connection
from broker.errors import DBusError, Disconnected, NoReply

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

# In seconds: the pause between two attempts to connect, which doubles from the first to the
# last. At the last, the log says that they fail.
_FIRST_DELAY: Final = 0.01
_LAST_DELAY: Final = 0.64


class LastingConnection:
    """A bus may disconnect a live client: dbus-broker does, when a uid's quota is used up.

    This is not the end of the bus, which the exit of its process shows, and says nothing about
    other clients. So we reconnect for as long as it takes, and ``take_up`` replaces the old
    connection.

    Args:
        name: the connection's purpose, for the log.
        take_up: called with each new connection, the first included. After a DBusError, such
            as the loss of the new connection, it is called again with another one.

    Attributes:
        up: set while there is a taken-up connection.
        on_lost: called when it is lost.
    """

    def __init__(self, name: str, take_up: Callable[[Connection], Awaitable[None]]) -> None:
        self.up = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None
        self._connection: Connection | None = None
        self._name = name
        self._take_up = take_up
        self._where = ""
        self._guid = ""
        self._closing = False
        self._remaking: asyncio.Task[None] | None = None

    @property
    def connection(self) -> Connection:
        """The newest connection, closed while there is no other; only after ``open``."""
        assert self._connection is not None
        return self._connection

    async def open(self, where: str, timeout: float = CALL_TIMEOUT) -> None:  # noqa: ASYNC109
        """Connect for the first time.

        Args:
            where: the address, always of the same bus.
            timeout: in seconds.

        Raises:
            DBusError: the connection or ``take_up`` failed.
        """
        self._where = where
        await self._connect(address.connect(where), timeout)

    async def _connect(self, sock: socket.socket, timeout: float = CALL_TIMEOUT) -> None:  # noqa: ASYNC109
        connection = await Connection.to_bus(sock, timeout=timeout)
        try:
            if self._guid and connection.guid != self._guid:
                raise Disconnected(f"another bus listens on {self._where} now")
            self._guid = self._guid or connection.guid
            self._connection = connection
            connection.take_at_most(TAKEN)
            connection.on_closed = self._on_closed
            await self._take_up(connection)
            if connection.closed:
                raise Disconnected("the new connection was lost at once")
        except BaseException:
            connection.on_closed = lambda: None
            connection.close()
            raise
        self.up.set()

    def _on_closed(self) -> None:
        if not self.up.is_set() or self._closing:
            return  # ``_connect`` notices
        self.up.clear()
        self.on_lost()
        self._remaking = asyncio.get_running_loop().create_task(self._remake())
        self._remaking.add_done_callback(_report_fault)

    async def _remake(self) -> None:
        # Not logged at once: a bus that exits closes all connections before its
        # process is reaped.
        delay = _FIRST_DELAY
        reason = ""
        while True:
            try:
                await self._connect(address.connect(self._where, timeout=0.0))
            except DBusError as e:
                if delay == _LAST_DELAY and str(e) != reason:
                    reason = str(e)
                    log.warning("the bus closed our connection for %s: %s", self._name, reason)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_DELAY)
            else:
                log.warning("the bus closed our connection for %s: there is a new one", self._name)
                return

    async def call_bus(
        self,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 - see Connection.call
    ) -> list[Any]:
        """Call a method of the bus, and again if the connection is lost: for idempotent methods.

        Raises:
            RemoteError: the answer is an error.
            NoReply: no answer came within ``timeout`` seconds.
            Disconnected: the connection was closed here.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.up.wait()
                    try:
                        return await self.connection.call_bus(
                            member, signature, body, timeout=timeout
                        )
                    except Disconnected:
                        if self._closing:
                            raise
        except TimeoutError:
            raise NoReply(f"no answer to {member} within {timeout:g} s") from None

    def close(self) -> None:
        """Close the connection for good."""
        self._closing = True
        self.up.set()  # calls that wait for it find the connection closed
        if self._remaking is not None:
            self._remaking.cancel()
        if self._connection is not None:
            self._connection.close()


def _report_fault(task: asyncio.Task[None]) -> None:
    """Report a failure of the task: all else depends on it."""
    if not task.cancelled() and (fault := task.exception()):
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a connection cannot be made again", "exception": fault, "task": task}
        )
