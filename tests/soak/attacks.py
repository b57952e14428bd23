"""What hostile clients, and a debugger, do to everybody at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Final

from broker.errors import NoReply
from tests.aio_client import BUS_NAME
from tests.integration.buses import flooding

if TYPE_CHECKING:
    from broker.bus.connection import Connection
    from tests.integration.buses import Bus

# In seconds: longer than an activation may take, see soak.OPTIONS.
PAUSE: Final = 2.5
# Of 200 pairs or calls each. More of them, and dbus-broker throws off anybody of the user,
# whose clients share one quota; and no client takes the name in its last moment, which
# dbus-daemon cannot be told of.
WRITES: Final = "50"


class Attacks:
    """At most one of them at a time: each is felt by all clients.

    Attributes:
        floods: whether there are some: for a moment they take memory, which a short run
            would take for growth.
    """

    def __init__(self, bus: Bus, *, floods: bool) -> None:
        self.floods = floods
        self._bus = bus
        self._one = asyncio.Lock()

    async def flip(self, name: str) -> None:
        """Take a name and give it up, tens of thousands of times a second."""
        await self._flood("flip", name)

    async def ping(self) -> None:
        """Call the broker and want no answer, as often."""
        await self._flood("ping", BUS_NAME)

    async def _flood(self, what: str, name: str) -> None:
        async with self._one:
            with flooding(self._bus, what, name, WRITES) as output:
                assert await asyncio.to_thread(output.readline) == b"done\n"

    async def pause(self, bus: Connection) -> None:
        """Stop the broker over a deadline of every activation that is under way."""
        async with self._one:
            self._bus.kill(signal.SIGSTOP)
            try:
                loop = asyncio.get_running_loop()
                end = loop.time() + PAUSE
                while (left := end - loop.time()) > 0:
                    # dbus-daemon has no answer while a ReloadConfig waits for the broker.
                    with contextlib.suppress(NoReply):
                        await bus.call_bus("GetId", timeout=left)
            finally:
                self._bus.kill(signal.SIGCONT)
