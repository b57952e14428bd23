"""Well-known bus names: their syntax, and the names that no descriptor may provide."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 255

_ELEMENT = "[A-Za-z_-][A-Za-z0-9_-]*"
# Not `\w` or `\d`: they match letters and digits of every script, the specification only ASCII's.
_BUS_NAME = re.compile(rf"{_ELEMENT}(?:\.{_ELEMENT})+")

RESERVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "org.freedesktop.DBus": "it is the message bus itself",
        "org.activation.Broker1": "it is the broker itself",
    }
)
"""Names that always have an owner, each with the reason."""

_TAKEN: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        # dbus-daemon asks the owner of this name to start services: the broker must own it.
        "dbus-daemon": {
            "org.freedesktop.systemd1": "with dbus-daemon the broker owns it, to receive "
            "activations; with dbus-broker it is free"
        },
    }
)


def taken_with(engine: str) -> Mapping[str, str]:
    """Returns the names that are taken only with a given engine, each with the reason.

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
