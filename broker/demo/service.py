"""A D-Bus service that echoes, and ends on request in any way."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, ClassVar

from broker.bus import address, interface
from broker.bus.connection import Connection
from broker.bus.objects import Interface, ObjectServer

if TYPE_CHECKING:
    from broker.bus.interface import InterfaceSpec

PATH = "/org/activation/Demo"


class Demo(Interface):
    """``org.activation.Demo``."""

    spec: ClassVar[InterfaceSpec] = interface.load(os.path.dirname(__file__), "org.activation.Demo")

    def get(self, name: str) -> Any:
        """There are no properties."""
        raise AssertionError(name)

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """Echo, or end at once: a caller of Exit or Raise gets no answer."""
        del caller
        (argument,) = arguments
        if member == "Exit":
            os._exit(argument & 0xFF)
        if member == "Raise":
            signal.signal(argument, signal.SIG_DFL)
            signal.raise_signal(argument)
        return [argument]


def serve(name: str) -> None:
    """Own a name and serve until the bus goes."""
    asyncio.run(_serve(name))


async def _serve(name: str) -> None:
    bus = await Connection.to_bus(address.connect(address.default(os.environ)))
    server = ObjectServer(PATH, machine_id="")
    server.serve(bus)
    server.add(PATH, Demo())
    bus.on_message = server.handle
    await bus.call_bus("RequestName", "su", [name, 0])
    await bus.wait_closed()
