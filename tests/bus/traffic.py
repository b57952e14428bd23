"""What goes over a connection in the tests: a series of signals, and calls under way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from broker.bus.codec import Message, signal

if TYPE_CHECKING:
    from broker.bus.connection import Connection

TEST: Final = "org.example.Test"


def changed(number: int, payload: str = "") -> Message:
    """One of a numbered series of signals."""
    return signal("/org/example", TEST, "Changed", "us", [number, payload])


def waiting(connection: Connection) -> int:
    """How many calls the connection still knows of."""
    return len(connection._answers)  # noqa: SLF001 - whether it is emptied is the question


def call(connection: Connection, member: str = "Echo", **options: Any) -> asyncio.Task[list[Any]]:
    """A call that is under way."""
    return asyncio.create_task(connection.call(None, "/", TEST, member, **options))
