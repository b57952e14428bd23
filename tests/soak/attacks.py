"""What hostile clients, and a debugger, do to everybody at once."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from broker.client import BUS_NAME
from tests.integration.buses import flooding

if TYPE_CHECKING:
    from broker.bus.connection import Connection
    from tests.integration.buses import Bus

# In seconds. A pause is longer than an activation may take, see soak.OPTIONS.
PAUSE: Final = 2.5
FLOOD: Final = 0.3
SERIALS: Final = 200


class Attacks:
    """At most one of them at a time: each is felt by all clients."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._one = asyncio.Lock()

    async def flip(self, bus: Connection, name: str) -> None:
        """Take a name and give it up, tens of thousands of times a second."""
        async with self._one:
            with flooding(self._bus, "flip", name):
                await _pass_time(bus, FLOOD)

    async def ping(self, bus: Connection) -> None:
        """Call the broker and want no answer, as often."""
        async with self._one:
            with flooding(self._bus, "ping", BUS_NAME):
                await _pass_time(bus, FLOOD / 10)

    async def pause(self, bus: Connection) -> None:
        """Stop the broker over a deadline of every activation that is under way."""
        async with self._one:
            self._bus.kill(signal.SIGSTOP)
            try:
                await _pass_time(bus, PAUSE)
            finally:
                self._bus.kill(signal.SIGCONT)


async def _pass_time(bus: Connection, seconds: float) -> None:
    """With a client that talks to the bus."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await bus.call_bus("GetId", timeout=None)
