"""Who calls: the broker's own user and root may change things, others read."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from broker.errors import AccessDenied, RemoteError

if TYPE_CHECKING:
    from broker.bus.connection import Connection

# Unique names are never given out again, so an answer stays true; the bound is
# for buses that live long.
_REMEMBERED: Final = 1024


class BusCallers:
    """Asks the bus for a caller's uid, once for each connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._uids: OrderedDict[str, int] = OrderedDict()

    async def require_privilege(self, caller: str) -> None:
        """Let our own user and root pass.

        Raises:
            AccessDenied: it is somebody else, or has gone.
        """
        uid = self._uids.get(caller)
        if uid is None:
            try:
                (uid,) = await self._connection.call_bus("GetConnectionUnixUser", "s", [caller])
            except RemoteError as e:
                raise AccessDenied(f"the bus does not know who {caller} is: {e}") from e
            self._uids[caller] = uid
            while len(self._uids) > _REMEMBERED:
                self._uids.popitem(last=False)
        if uid not in (0, os.getuid()):
            raise AccessDenied(f"uid {uid} may not do this; uid {os.getuid()} and root may")
