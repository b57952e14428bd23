"""The interface's names, as its clients need them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from broker.errors import RemoteError

# Not imported from the daemon's room, which a client does not need.
BUS_NAME: Final = "org.activation.Broker1"
ROOT: Final = "/org/activation/Broker1"
MANAGER: Final = f"{BUS_NAME}.Manager"
SERVICE: Final = f"{BUS_NAME}.Service"
PROCESS: Final = f"{BUS_NAME}.Process"

_ABSENT: Final = {
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
}


def is_absent(e: RemoteError) -> bool:
    """Whether the bus answered, and not the broker: nobody owns its name."""
    return e.name in _ABSENT and e.sender == "org.freedesktop.DBus"
