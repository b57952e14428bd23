"""Checks callers: our own user and root may do everything, others may read public data."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from broker.errors import AccessDenied, DBusError

if TYPE_CHECKING:
    from broker.bus.lasting import LastingConnection

# Unique names are never reused, so an answer stays true; the bound is for buses
# that live long.
_REMEMBERED: Final = 1024


class Callers:
    """Asks the bus for a caller's uid, once for each connection."""

    def __init__(self, link: LastingConnection) -> None:
        self._link = link
        self._answers: OrderedDict[str, asyncio.Task[list[int]]] = OrderedDict()

    async def require_privilege(self, caller: str) -> None:
        """Let our own user and root pass.

        Raises:
            AccessDenied: the caller is another user's, or has gone.
        """
        if caller not in self._answers:
            # A task, so that calls before the answer wait for the same one.
            self._answers[caller] = asyncio.create_task(
                self._link.call_bus("GetConnectionUnixUser", "s", [caller])
            )
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        answer = self._answers[caller]
        try:
            (uid,) = await asyncio.shield(answer)
        except DBusError as e:
            if self._answers.get(caller) is answer:
                del self._answers[caller]
            raise AccessDenied(f"the bus does not identify {caller}: {e}") from e
        if uid not in (0, os.geteuid()):
            raise AccessDenied(f"uid {uid} may not do this; uid {os.geteuid()} and root may")
