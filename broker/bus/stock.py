"""dbus-next's own connection, for tests that are written with it: not used by the broker.

What is wrong with it (see ``codec``) a test can live with, but for one thing: it leaves its
socket open when it is disconnected, and that is a ResourceWarning in every strict test run.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import broker.bus.codec  # noqa: F401 - it makes dbus-next importable on every Python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def connected(where: str) -> AsyncIterator[Any]:
    """A ``dbus_next.aio.MessageBus`` on the bus at an address, closed behind itself."""
    from dbus_next.aio import MessageBus  # noqa: PLC0415 - after codec

    bus = await MessageBus(bus_address=where).connect()
    try:
        yield bus
    finally:
        bus.disconnect()
        bus._stream.close()  # noqa: SLF001 - nothing public closes them
        bus._sock.close()  # noqa: SLF001
