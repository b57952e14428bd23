"""The bus driver: its name, path and constants."""

from __future__ import annotations

from typing import Final

DRIVER: Final = "org.freedesktop.DBus"
DRIVER_PATH: Final = "/org/freedesktop/DBus"

# RequestName (D-Bus specification, Message Bus Messages).
DO_NOT_QUEUE: Final = 4
PRIMARY_OWNER: Final = 1

NAME_HAS_NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"
