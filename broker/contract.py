"""The interface as its clients see it: names, and what they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
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


class Snapshot(NamedTuple):
    """All objects of a broker at one moment: properties by object path.

    Values are plain Python ones, unpacked from their variants.
    """

    services: dict[str, dict[str, Any]]
    processes: dict[str, dict[str, Any]]


class Signal(NamedTuple):
    """A signal of the broker; ``body`` has plain Python values."""

    path: str
    member: str
    body: list[Any]
