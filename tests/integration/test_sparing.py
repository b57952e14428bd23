"""A process that serves clients by another name outlives the activation that has failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.integration.buses import TEST, Witness, open_fifo

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

# Nothing here depends on whose broker it is.
pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("user", ["self"], indirect=True)]

ONE, OTHER = f"{TEST}.One", f"{TEST}.Other"


async def owner_of_other(bus: Bus) -> int:
    """The PID of the process that has the other name; it may still be about to take it."""
    async with asyncio.timeout(20):
        while not (await bus.client.bus.call_bus("NameHasOwner", "s", [OTHER]))[0]:
            pass
    (pid,) = await bus.client.bus.call_bus("GetConnectionUnixProcessID", "s", [OTHER])
    return int(pid)


async def test_a_keyring_that_is_asked_for_a_name_that_it_does_not_take_keeps_its_secrets(
    place: Place,
) -> None:
    """What it has left beside it and serves nobody is ended, also what takes no SIGTERM."""
    witness = Witness(place.fifo("witness"))
    # A parent of the owner, which stays with it; and a child, which does the work.
    script = f"{place.service} -f {place.path}/witness -j ts {OTHER} & wait"
    place.add(ONE, f"/bin/sh -c '{script}'")
    async with place.serve("--activation-timeout=1.5", "--stop-timeout=0.3") as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", ONE))
        owner = await owner_of_other(bus)
        child = asyncio.create_task(bus.call(OTHER, "Run", "s", f"read x < {place.fifo('child')}"))
        with await open_fifo(place.path / "child", "w") as gate:
            with pytest.raises(RemoteError, match="timed out"):
                await start
            await witness.hear("T")
            await bus.state(ONE, "lingering")
            about = procfs.stat(owner)
            assert about is not None
            pids = set(await bus.get(ONE, "PIDs"))
            below = procfs.with_descendants([owner])
            assert pids == {about.ppid, *filter(procfs.alive, below)}
            assert len(pids) > 2
            assert await bus.get(ONE, "Result", "NFailures") == ("timeout", 1)
            # With its line at an end the child has done its work, and not been ended.
            gate.write("secret\n")
        assert await child == 0
        await bus.client.call("StopService", "s", ONE)
        await witness.see_end()
        assert await bus.get(ONE, "SubState", "Result", "PIDs") == ("failed", "timeout", [])
    witness.close()


async def test_what_serves_outlives_a_process_that_ends_badly(place: Place) -> None:
    """And a new activation is started beside it."""
    gate = place.fifo("gate")
    script = f"{place.service} -d {OTHER}; {place.service} -l -x 0 x; read x < {gate}; exit 3"
    place.add(ONE, f"/bin/sh -c '{script}'")
    async with place.serve() as bus:
        for _ in range(2):
            start = asyncio.create_task(bus.client.call("StartService", "s", ONE))
            owner = await owner_of_other(bus)
            (await open_fifo(gate, "w")).close()
            with pytest.raises(RemoteError, match="exited with status 3"):
                await start
            await bus.state(ONE, "lingering")
            assert await bus.get(ONE, "PIDs", "Result") == ([owner], "exit-code")
            # The second time it finds the name taken, and leaves.
        assert await bus.call(OTHER, "Echo", "s", "hello") == "hello"
        await bus.client.call("StopService", "s", ONE)
