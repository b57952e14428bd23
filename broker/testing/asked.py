"""A client of a test's broker, with complete errors in their text."""

from __future__ import annotations

from typing import Any

from broker.client.client import Client
from broker.errors import RemoteError


class Asked(Client):
    """As Client; the text of a RemoteError begins with its D-Bus name.

    A failed test shows only the text.
    """

    def _take(self, serial: int, properties: tuple[str, ...] = ()) -> list[Any]:
        try:
            return super()._take(serial, properties)
        except RemoteError as e:
            raise named(e) from None


def named(e: RemoteError) -> RemoteError:
    """The same, with its D-Bus name in its text."""
    text = str(e)
    return RemoteError(e.name, f"{e.name}: {text}" if text else e.name, e.sender)
