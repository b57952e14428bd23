"""The start limit: what counts for it, what clears it, and how it is set."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from tests.aio_client import MANAGER, ROOT
from tests.integration.buses import TEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.buses import Bus, Place

# Nothing here depends on whose broker it is.
pytestmark = pytest.mark.parametrize("user", ["self"], indirect=True)

NAME = f"{TEST}.One"
HIT = "org.activation.Broker1.Error.StartLimitHit"


async def failure(bus: Bus) -> str:
    """The name of the error with which a start fails."""
    with pytest.raises(RemoteError) as caught:
        await bus.client.call("StartService", "s", NAME)
    return caught.value.name


@pytest.mark.asyncio
async def test_what_changes_how_services_are_started_clears_it(place: Place) -> None:
    """A notification daemon fails until the compositor has exported its display."""
    place.add(NAME, f"{place.service} -x 1 {NAME}")
    environ = {"WAYLAND_DISPLAY": "wayland-1"}

    async def change_descriptor() -> None:
        place.add(NAME, f"{place.service} -x 2 {NAME}")
        await bus.client.call("Reload")

    async with place.serve("--start-limit=2/1000") as bus:
        of_bus, of_broker = bus.client.bus.call_bus, bus.client.call
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: of_bus("UpdateActivationEnvironment", "a{ss}", [environ]),
            lambda: of_broker("SetEnvironment", "as", ["A=b"]),
            lambda: of_broker("UnsetEnvironment", "as", ["A"]),
            lambda: of_broker("Reload"),
            lambda: of_bus("ReloadConfig"),
            change_descriptor,
            lambda: of_broker("ResetFailed", "s", NAME),
        ]
        for change in changes:
            for _ in range(2):
                assert await failure(bus) != HIT
            assert await failure(bus) == HIT
            await change()
            async with asyncio.timeout(20):
                # dbus-daemon answers these two before it passes them on.
                while await failure(bus) == HIT:
                    pass
            await of_broker("ResetFailed", "s", NAME)
        assert await bus.get(NAME, "NActivations", "NFailures") == (21, 21)
        interval, burst = [
            await bus.client.get(ROOT, MANAGER, f"StartLimit{each}")
            for each in ("IntervalUSec", "Burst")
        ]
        assert (interval, burst) == (1_000_000_000, 2)


@pytest.mark.asyncio
async def test_neither_served_activations_nor_our_signals_count(place: Place) -> None:
    place.add(NAME)
    async with place.serve("--start-limit=2/1000") as bus:
        for count in range(1, 4):
            await bus.echo(NAME)
            with pytest.raises(RemoteError):
                await bus.call(NAME, "Raise", "i", int(signal.SIGSEGV))
            await bus.state(NAME, "failed")
            assert await bus.get(NAME, "NFailures") == count
        place.add(NAME, "/bin/sleep 1000")
        await bus.client.call("Reload")
        for count in range(4, 7):
            start = asyncio.create_task(bus.client.call("StartService", "s", NAME))
            await bus.state(NAME, "start")
            await bus.client.call("KillService", "ssi", NAME, "main", int(signal.SIGKILL))
            with pytest.raises(RemoteError, match="received signal 9"):
                await start
            assert await bus.get(NAME, "Result", "NFailures") == ("signal", count)


@pytest.mark.asyncio
async def test_there_may_be_none(place: Place) -> None:
    place.add(NAME, "/nonexistent")
    async with place.serve("--start-limit=0") as bus:
        for _ in range(8):
            assert await failure(bus) != HIT
        assert await bus.client.get(ROOT, MANAGER, "StartLimitBurst") == 0


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
@pytest.mark.parametrize("text", ["5", "5/", "/10", "-1/10", "5/0", "5/nan", "x", "²/1"])
def test_an_invalid_start_limit_is_refused(place: Place, text: str) -> None:
    done = place.run("true", options=[f"--start-limit={text}"])
    assert done.returncode == 2
    assert f"'--start-limit': '{text}' is not BURST/SECONDS" in done.stderr
