"""A name that is owned from another PID namespace, of whose process the bus says PID 0."""

from __future__ import annotations

import os
import shlex
import signal

import pytest

from broker.bus import address
from broker.bus.connection import Connection
from broker.errors import RemoteError
from broker.process import procfs
from tests.integration.buses import TEST, Installation, Place

pytestmark = pytest.mark.square

NAME = f"{TEST}.One"


@pytest.mark.asyncio
@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace like that")
async def test_an_owner_in_another_pid_namespace_is_not_ours(place: Place) -> None:
    """We are outside of the broker's namespace: it neither sees nor may end us."""
    place.add(NAME)
    command = shlex.quote(str(place.user.command))
    script = f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {command} "$@"\n'
    place.user = Installation(place.write("wrapper", script))
    async with place.serve() as bus:
        (first,) = procfs.children_of(bus.pid)
        try:
            link = await Connection.to_bus(address.connect(bus.address))
            assert await link.call_bus("RequestName", "su", [NAME, 4]) == [1]
            await bus.state(NAME, "external")
            assert await bus.get(NAME, "MainPID", "PIDs", "Result") == (0, [], "success")
            with pytest.raises(RemoteError, match="which the broker did not start"):
                await bus.client.call("StopService", "s", NAME)
            assert await link.call_bus("NameHasOwner", "s", [NAME]) == [True]
            assert await link.call_bus("ReleaseName", "s", [NAME])
            # Free again, it is activated as ever.
            assert await bus.echo(NAME) == "hello"
            link.close()
            await link.wait_closed()
        finally:
            # unshare itself takes no SIGTERM, and all goes with the first process.
            os.kill(first, signal.SIGKILL)
