"""What a service is started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.client import ROOT

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"


async def environment_of(bus: Bus) -> dict[str, str]:
    """As the service itself sees it."""
    entries = await bus.call(NAME, "Environment")
    return dict(entry.split("=", 1) for entry in entries)


async def test_the_brokers_own_and_the_starters_variables(place: Place) -> None:
    place.add(NAME)
    environ = place.environ(
        SOME="thing",
        LISTEN_FDNAMES="x",
        WATCHDOG_USEC="1",
        INVOCATION_ID="y",
        DBUS_STARTER_ADDRESS="of another bus",
        DBUS_SESSION_BUS_ADDRESS="of another bus",
    )
    async with place.serve(environ=environ) as bus:
        found = await environment_of(bus)
        # Ours is at the end of PATH, so that demo services are found.
        assert found.pop("PATH").startswith(environ["PATH"])
        assert found == {
            "HOME": environ["HOME"],
            "XDG_RUNTIME_DIR": environ["XDG_RUNTIME_DIR"],
            "SOME": "thing",
            "DBUS_SESSION_BUS_ADDRESS": bus.address,
            "DBUS_STARTER_ADDRESS": bus.address,
            "DBUS_STARTER_BUS_TYPE": "session",
        }


async def test_changes_reach_the_next_activation(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.client.call("SetEnvironment", "as", ["ADDED=1", "HOME=/elsewhere"])
        await bus.client.bus.call_bus(
            "UpdateActivationEnvironment", "a{ss}", [{"UPDATED": "a=b", "EMPTY": ""}]
        )
        found = await environment_of(bus)
        wanted = {"ADDED": "1", "HOME": "/elsewhere", "UPDATED": "a=b", "EMPTY": ""}
        assert found.items() >= wanted.items()
        await bus.client.call("StopService", "s", NAME)
        await bus.client.call("UnsetEnvironment", "as", ["ADDED", "NEVER_SET"])
        again = await environment_of(bus)
        assert again.keys() == found.keys() - {"ADDED"}
        shown = await bus.client.get(ROOT, "org.activation.Broker1.Manager", "Environment")
        assert "UPDATED=a=b" in shown
        assert not [entry for entry in shown if entry.startswith("ADDED")]


async def test_the_bus_address_cannot_be_changed_by_clients(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.client.call("SetEnvironment", "as", ["DBUS_SESSION_BUS_ADDRESS=unix:path=/x"])
        found = await environment_of(bus)
        assert found["DBUS_SESSION_BUS_ADDRESS"] == bus.address
