"""Well-known bus names: which texts are one, and which no descriptor may provide."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 255

_ELEMENT = "[A-Za-z_-][A-Za-z0-9_-]*"
# Not `\w` nor `\d`: they take letters and digits of every script, the specification ASCII's only.
_BUS_NAME = re.compile(rf"{_ELEMENT}(?:\.{_ELEMENT})+")

RESERVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "org.freedesktop.DBus": "it is the message bus itself",
        "org.activation.Broker1": "it is the broker itself",
    }
)
"""Names that are always somebody's, each with whose."""

_TAKEN: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        # The owner of this name is asked to start services, and that is the broker.
        "dbus-daemon": {
            "org.freedesktop.systemd1": "with dbus-daemon the broker takes it, to be asked for "
            "activations; with dbus-broker it is free"
        },
    }
)


def taken_with(engine: str) -> Mapping[str, str]:
    """Returns the names that are somebody's with one engine alone, each with whose.

    Args:
        engine: its name, or its name and version.
    """
    return _TAKEN.get(engine.partition(" ")[0], {})


def is_bus_name(text: str) -> bool:
    """Tells whether ``text`` is a valid well-known name (D-Bus specification, "Bus names").

    Two or more elements of ASCII letters, digits, ``_`` and ``-``, none of them empty or starting
    with a digit, separated by dots, 255 bytes at most. A unique name (``:1.7``) is none.
    """
    # fullmatch, since `$` also matches before a final newline.
    return len(text) <= _LONGEST and _BUS_NAME.fullmatch(text) is not None
