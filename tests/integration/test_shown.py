"""What is shown of processes and owners: whose they are, since when, and by what they came."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.buses import TEST

if TYPE_CHECKING:
    from tests.integration.buses import Place

pytestmark = pytest.mark.asyncio

NAME: Final = f"{TEST}.One"


@pytest.mark.parametrize(("user", "engine"), [("self", "dbus-broker")], indirect=True)
async def test_no_orphan_seems_older_than_its_service(place: Place) -> None:
    """The kernel knows a start to 10 ms, and a daemon forks faster."""
    names = [f"{TEST}.Daemon{number}" for number in range(20)]
    for name in names:
        place.add(name, f"{place.service} -d {name}")
    async with place.serve() as bus:
        await asyncio.gather(*map(bus.echo, names))
        processes = (await bus.client.snapshot()).processes.values()
        begun = {each["ServiceName"]: each for each in processes if each["Origin"] == "spawned"}
        orphans = [each for each in processes if each["Origin"] == "adopted"]
        assert len(orphans) >= len(names)
        early = [
            each["PID"]
            for each in orphans
            for clock in ("", "Monotonic")
            if each[f"StartTimestamp{clock}"] < begun[each["ServiceName"]][f"StartTimestamp{clock}"]
        ]
        assert early == []
        command = [place.user.command, "ps", "--exited", "--no-legend", f"--address={bus.address}"]
        shown = place.user.run(command).stdout.splitlines()
        flat = [line for line in shown if "(adopted)" in line and "\u2500 " not in line]
        assert flat == []
