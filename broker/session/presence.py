"""Our connections to the bus: the broker's name and objects, and the watch over names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from broker.api import paths
from broker.api.callers import Callers
from broker.api.publisher import Publisher
from broker.bus.calls import within
from broker.bus.driver import DO_NOT_QUEUE, PRIMARY_OWNER
from broker.bus.lasting import LastingConnection
from broker.bus.names import NameWatch
from broker.bus.objects import ObjectServer
from broker.errors import DBusError, EngineFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from broker.api.control import Control
    from broker.bus.connection import Connection
    from broker.bus.names import NameEvents

log = logging.getLogger(__name__)

# In seconds: how long a call waits for the bus's earlier news of names. Only a flood makes
# their queue longer; then calls go ahead until the queue's end is reached.
NAMES_TIMEOUT: Final = 0.25
# The same for a verdict on all processes, which is wrong if it missed a name.
VERDICT_TIMEOUT: Final = 1.0


class Presence:
    """Two connections, one for objects and one for names; each reconnects when it is lost.

    Args:
        control: the session that the objects show.
        max_rules: see ``NameWatch``.
        largest: see ``Connection``.
        discreet: see ``ObjectServer``.

    Attributes:
        names: the watch over the services' names.
        publisher: publishes our objects; silent until they are on the bus.
    """

    def __init__(
        self,
        control: Control,
        events: NameEvents,
        *,
        machine_id: str,
        max_rules: int,
        largest: int,
        discreet: bool,
    ) -> None:
        self.names = NameWatch(events, max_rules)
        self._largest = largest
        self._late: asyncio.Future[None] | None = None
        self._watching = LastingConnection("names", self.names.resume)
        self._serving = LastingConnection("our objects", self._take_place)
        self._serving.on_lost = self._fall_silent
        self._opened = False
        callers = Callers(self._serving)
        self._server = ObjectServer(paths.ROOT, machine_id)
        self._server.require_privilege = callers.require_privilege
        self._server.discreet = discreet
        loop = asyncio.get_running_loop()
        self.publisher = Publisher(loop, self._server, control, callers)
        self._server.before_call = self._hear_names
        self._server.before_reply = self.publisher.flushed

    async def watch(self, where: str, names: Collection[str]) -> str:
        """Follow the services' names.

        Args:
            where: the address of the bus.

        Returns:
            its GUID.

        Raises:
            DBusError: the bus refuses us.
        """
        await self.names.watch(names)
        await self._watching.open(where)
        return self._watching.connection.guid

    async def serve(self, where: str) -> None:
        """Own our name, with an object for each service and process.

        Raises:
            DBusError: the bus refuses us.
            EngineFailed: another connection owns our name.
        """
        await self._serving.open(where)

    async def _take_place(self, connection: Connection) -> None:
        self._server.serve(connection)
        connection.largest = self._largest
        connection.on_message = self._server.handle
        connection.sift = self._server.sift
        connection.on_writable = self.publisher.flush
        # On a reconnection we queue for it: another client may have taken it meanwhile.
        owned = await _request_name(connection, 0 if self._opened else DO_NOT_QUEUE)
        if not self._opened:
            if owned != PRIMARY_OWNER:
                raise EngineFailed(f"another process owns {paths.BUS_NAME} already")
            self.publisher.open()
            self._opened = True
            return
        if owned != PRIMARY_OWNER:
            log.error("another process owns %s: we wait until it is free", paths.BUS_NAME)
        self._server.silent = False
        self.publisher.flush()

    def _fall_silent(self) -> None:
        self._server.silent = True

    async def _hear_names(self) -> None:
        """Wait for news of names: a caller's own changes may still be on the other connection."""
        if self._late is not None and not self._late.done():
            return
        synced = self.names.synced()
        await asyncio.wait([synced], timeout=NAMES_TIMEOUT)
        self._late = synced

    async def heard(self, seconds: float) -> None:
        """Return when the bus's news of names has been handled, or after a timeout."""
        await asyncio.wait([self.names.synced()], timeout=seconds)

    async def processes(self, seconds: float) -> dict[str, int]:
        """The PID behind each name on the bus, unique names included, as far as the bus says.

        Args:
            seconds: the timeout for its answers; without them the result is empty.
        """
        asking = asyncio.get_running_loop().create_task(self._ask_processes())
        try:
            if await within(seconds, asking):
                return asking.result()
            log.warning("the bus does not list its connections in time")
        except DBusError as e:
            log.warning("the bus does not list its connections: %s", e)
        finally:
            asking.cancel()
        return {}

    async def _ask_processes(self) -> dict[str, int]:
        connection = self._serving.connection
        (names,) = await connection.call_bus("ListNames")
        answers = await connection.call_bus_each("GetConnectionUnixProcessID", names)
        return {
            name: answer.body[0]
            for name, answer in zip(names, answers, strict=True)
            # An error: the client has left meanwhile, or is in another PID namespace.
            if not isinstance(answer, DBusError)
        }

    async def finish(self, last_callers: Iterable[str], seconds: float) -> None:
        """Return when all signals and answers have been sent, or after a timeout.

        Args:
            last_callers: their answers must have arrived: the bus drops its queues when it ends.
        """
        if not self._serving.up.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.publisher.flushed()
                await self._server.finish()
                await self._deliver(last_callers)

    async def _deliver(self, callers: Iterable[str]) -> None:
        """Ping each caller: the answer was sent first, so a caller that replies has got it."""
        connection = self._serving.connection
        with contextlib.suppress(DBusError):
            await connection.sync()
        for caller in callers:
            with contextlib.suppress(DBusError):
                await connection.call(caller, "/", "org.freedesktop.DBus.Peer", "Ping")

    def close(self) -> None:
        """Leave the bus."""
        self.publisher.close()
        self._serving.close()
        self._watching.close()


async def _request_name(connection: Connection, flags: int) -> int:
    (answer,) = await connection.call_bus("RequestName", "su", [paths.BUS_NAME, flags])
    return int(answer)
