"""dbus-next's own connection, for tests that are written with it: not used by the broker.

A test can live with its bugs (see ``codec``), except for one: on disconnect it leaves its
socket open, a ResourceWarning in every strict test run. The loop must stop watching the
socket before we close it: the next socket reuses its number, and a loop that outlives the
test would never learn of that.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import broker.bus.codec  # noqa: F401 - it makes dbus-next importable on every Python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def connected(where: str) -> AsyncIterator[Any]:
    """A ``dbus_next.aio.MessageBus`` on the bus at an address, closed at the end."""
    from dbus_next.aio import MessageBus  # noqa: PLC0415 - after codec

    bus = MessageBus(bus_address=where)
    try:
        yield await bus.connect()
    finally:
        bus.disconnect()
        # As it does itself at the end of the stream, which is too late here.
        bus._finalize(EOFError())  # noqa: SLF001 - see below
        bus._stream.close()  # noqa: SLF001 - nothing public closes them
        bus._sock.close()  # noqa: SLF001
