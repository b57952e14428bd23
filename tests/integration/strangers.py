"""Buses that let everybody in, and connections of other users."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import pytest

from broker.bus import address
from broker.bus.connection import Connection
from tests.integration.buses import Installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Bus, Place

# "daemon", who exists everywhere (dbus-daemon wants to know a user's groups), and nobody at all.
STRANGERS: Final = (1, 12345)

# Both engines with everybody's connections allowed, and all else as it is.
OPEN_BUS: Final = """\
#!{python}
from broker import cli
from broker.engine import daemon_config, dbus_broker

closed = dbus_broker.policy


def policy(version, uid):
    variant = closed(version, uid)
    default, owners = variant.value[0][:2]
    default[1] = owners[1]
    return variant


dbus_broker.policy = policy
daemon_config._OPEN = daemon_config._OPEN.replace('user="root"', 'user="*"')
cli.main()
"""


def open_to_all(place: Place) -> None:
    """Have the place's broker let everybody in, on either engine."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    python = place.user.command.parent / "python"
    script = place.write("open-bus", OPEN_BUS.format(python=python))
    place.user = Installation(script, place.user.uid)


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """The kernel notes the effective user of a connecting process."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


async def connect(bus: Bus, uid: int) -> Connection:
    """As that user; the place and the socket are open to everybody."""
    bus.place.path.chmod(0o755)
    (bus.place.path / "bus").chmod(0o777)
    with acting_as(uid):
        sock = address.connect(bus.address)
    return await Connection.to_bus(sock)
