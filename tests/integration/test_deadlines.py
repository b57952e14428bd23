"""A deadline is judged by what was in time, not by when the broker came to read it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.integration.buses import TEST, open_fifo, standing_still

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE = f"{TEST}.One", f"{TEST}.Two", f"{TEST}.Three"


async def late(bus: Bus, seconds: float) -> None:
    """Let time pass, with a service that answers."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await bus.call(ONE, "Echo", "s", "x")


async def test_a_service_that_was_in_time_is_not_late(place: Place) -> None:
    """The broker stands still over a deadline: it finds the timer before what was in time."""
    place.add(ONE)
    place.add(TWO, f"{place.service} -w {place.fifo('two')} {TWO}")
    place.add(THREE, f"{place.service} -w {place.fifo('three')} {THREE}")
    async with place.serve("--activation-timeout=1") as bus:
        await bus.echo(ONE)
        calls = [asyncio.create_task(bus.call(each, "Echo", "s", each)) for each in (TWO, THREE)]
        for each in (TWO, THREE):
            await bus.state(each, "start")
        with standing_still(bus.pid):
            (await open_fifo(place.path / "two", "w")).close()
            assert await calls[0] == TWO
            await late(bus, 1.2)
        await bus.state(TWO, "running")
        assert await bus.get(TWO, "Result", "NFailures") == ("success", 0)
        # One that has not taken its name is late all the same.
        with pytest.raises(Exception, match=r"timed out|unit|activat"):
            await calls[1]
        await bus.state(THREE, "failed")
        assert await bus.get(THREE, "Result") == "timeout"


async def test_a_bus_that_does_not_answer_is_not_waited_for(place: Place) -> None:
    fifo = place.fifo("held")
    place.add(ONE, f"{place.service} -f {fifo} -w {place.fifo('never')} {ONE}")
    async with place.serve("--activation-timeout=1") as bus:
        call = asyncio.create_task(bus.call(ONE, "Echo", "s", "x"))
        await bus.state(ONE, "start")
        with await open_fifo(fifo, "rb") as held, standing_still(bus.engine):
            # At its end when the service has ended.
            assert await asyncio.to_thread(held.read) == b""
        with pytest.raises(Exception, match=r"timed out|unit|activat"):
            await call
        assert await bus.get(ONE, "Result") == "timeout"
