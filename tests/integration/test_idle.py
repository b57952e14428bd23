"""A broker with nothing to do does nothing, nor does its guardian."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.buses import guardians_of
from tests.integration.pairs import on_one

if TYPE_CHECKING:
    from tests.integration.buses import Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"


def switches(broker: int) -> list[str]:
    """How often each of the two was put aside, and came back: it counts each wake-up."""
    found = []
    for pid in (broker, *guardians_of(broker)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found += [line for line in lines if "ctxt_switches" in line]
    return found


@on_one("dbus-daemon")
async def test_no_wake_up_in_10_seconds(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        # The last things that are said come a moment after the last event.
        await bus.client.call("ListServices")
        before = switches(bus.pid)
        assert len(before) == 4
        async with asyncio.timeout(20):
            while True:
                # Settled when two looks a second apart are alike.
                await asyncio.get_running_loop().run_in_executor(None, _pause, 1)
                now = switches(bus.pid)
                if now == before:
                    break
                before = now
        await asyncio.get_running_loop().run_in_executor(None, _pause, 10)
        assert switches(bus.pid) == before


def _pause(seconds: float) -> None:
    """Let time go by: what is shown is that nothing happens in it."""
    import select

    select.select([], [], [], seconds)
