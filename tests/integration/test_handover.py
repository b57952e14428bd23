"""Processes that all ended with 0 may have left the name to another instance."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from tests.integration.buses import TEST, open_fifo, standing_still

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Bus, Place

# Nothing here depends on whose broker it is.
pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("user", ["self"], indirect=True)]

ONE, TWO = f"{TEST}.One", f"{TEST}.Two"
SPAWN = "org.freedesktop.DBus.Error.Spawn."


async def handing_over(bus: Bus, name: str) -> None:
    """Wait until every process of an activation has ended."""
    await bus.signal("ProcessExited", service=name)
    await bus.state(name, "start")
    assert await bus.get(name, "MainPID", "PIDs", "ActiveState") == (0, [], "activating")


def first_instance(place: Place, bus: Bus, gate: Path) -> None:
    """A copy that runs already, and takes the name when the gate is opened and closed."""
    environ = place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
    place.user.popen([place.service, "-w", gate, ONE], env=environ)


async def test_a_second_copy_that_leaves_the_name_to_the_first_serves_its_callers(
    place: Place,
) -> None:
    """Single instances do so, and so does what has a service manager start the service."""
    gate = place.fifo("gate")
    for name in (ONE, TWO):
        place.add(name, f"{place.service} -x 0 {name}")
    async with place.serve() as bus:
        first_instance(place, bus, gate)
        call = asyncio.create_task(bus.call(ONE, "Echo", "s", "hello"))
        await handing_over(bus, ONE)
        joins = asyncio.create_task(bus.client.call("StartService", "s", ONE))
        # One that is stopped meanwhile is not waited for, and has not failed.
        stopped = asyncio.create_task(bus.client.call("StartService", "s", TWO))
        await handing_over(bus, TWO)
        await bus.client.call("StopService", "s", TWO)
        with pytest.raises(RemoteError, match="was stopped before it took its name"):
            await stopped
        assert await bus.get(TWO, "SubState", "Result", "NFailures") == ("dead", "success", 0)
        (await open_fifo(gate, "w")).close()
        assert await call == "hello"
        await joins
        await bus.state(ONE, "external")
        assert await bus.get(ONE, "Result", "NActivations", "NFailures") == ("success", 1, 0)


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
async def test_a_name_that_nobody_takes_over_is_waited_for_as_long_as_was_said(
    place: Place,
) -> None:
    place.add(ONE, f"{place.service} -d -x 0 {ONE}")
    for options, least in (
        (["--handover-timeout=0.4"], 0.4),
        # Not longer than the activation may take, and then the reason is the same.
        (["--handover-timeout=30", "--activation-timeout=0.4"], 0.3),
        (["--handover-timeout=0"], 0.0),
    ):
        async with place.serve(*options) as bus:
            call = asyncio.create_task(bus.client.call("StartService", "s", ONE))
            await bus.signal("ProcessExited", service=ONE)
            began = time.monotonic()
            with pytest.raises(RemoteError) as caught:
                await call
            assert least - 0.1 < time.monotonic() - began < least + 2
            assert caught.value.name == f"{SPAWN}ChildExited"
            assert "exited with status 0 and left nobody to take its name" in str(caught.value)
            assert await bus.get(ONE, "SubState", "Result") == ("failed", "protocol")


async def test_a_name_that_is_taken_over_in_time_is_not_late(place: Place) -> None:
    """The broker stands still over the deadline."""
    gate = place.fifo("gate")
    place.add(ONE, f"{place.service} -x 0 {ONE}")
    async with place.serve("--handover-timeout=0.5") as bus:
        first_instance(place, bus, gate)
        call = asyncio.create_task(bus.call(ONE, "Echo", "s", "hello"))
        await handing_over(bus, ONE)
        with standing_still(bus.pid):
            (await open_fifo(gate, "w")).close()
            assert await call == "hello"
            deadline = time.monotonic() + 0.6
            while time.monotonic() < deadline:
                await bus.call(ONE, "Echo", "s", "x")
        await bus.state(ONE, "external")
        assert await bus.get(ONE, "Result", "NFailures") == ("success", 0)


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
async def test_a_daemon_that_ends_badly_is_not_waited_for(place: Place) -> None:
    """Though a helper that it has left behind lives."""
    place.add(ONE, f"{place.service} -d -l -x 9 {ONE}")
    async with place.serve() as bus:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="exited with status 9"):
            await bus.client.call("StartService", "s", ONE)
        assert time.monotonic() - began < 4
        await bus.state(ONE, "failed")
        assert await bus.get(ONE, "Result", "ExecMainStatus", "PIDs") == ("exit-code", 9, [])
