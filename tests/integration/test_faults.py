"""A fault of the broker costs the call it is in; only one in an essential part ends the session."""

from __future__ import annotations

import errno
import re
import signal
from typing import TYPE_CHECKING, Final

import pytest

from broker.errors import FDO, RemoteError
from broker.process import procfs
from tests.aio_client import MANAGER, ROOT
from tests.integration import refusing
from tests.integration.buses import Installation
from tests.integration.worlds import wrap_in_refusal

if TYPE_CHECKING:
    from tests.integration.buses import Place

NAME: Final = "org.activation.Test.One"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
PR_GET_CHILD_SUBREAPER: Final = 37


@pytest.mark.asyncio
async def test_a_fault_in_a_call_costs_its_caller(place: Place) -> None:
    """Nothing makes this property fail but a filter; what stands behind others is handled."""
    place.add(NAME)
    wrap_in_refusal(place, refusing.PRCTL, errno.EPERM, first=PR_GET_CHILD_SUBREAPER)
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        for member, signature, arguments in (
            ("Get", "ss", [MANAGER, "Subreaper"]),
            ("GetAll", "s", [MANAGER]),
        ):
            with pytest.raises(RemoteError) as caught:
                await bus.client.bus.call(
                    "org.activation.Broker1", ROOT, PROPERTIES, member, signature, arguments
                )
            assert caught.value.name == f"{FDO}Failed"
            assert str(caught.value) == f"{member} failed in the broker"
        counts: list[int] = []
        async for each in bus.signals():
            if each.member == "PropertiesChanged" and "NFaults" in each.body[1]:
                counts.append(each.body[1]["NFaults"])
                if counts[-1] == 2:
                    break
        assert await bus.client.get(ROOT, MANAGER, "NFaults") == 2
        await bus.client.call("StopService", "s", NAME)
        assert await bus.echo(NAME) == "hello"
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        assert bus.status == 0
        assert said.count("Traceback (most recent call last)") == 2
        assert "KernelRefused: prctl(37): Operation not permitted" in said


@pytest.mark.asyncio
async def test_a_kernel_without_pidfds_stops_services_all_the_same(place: Place) -> None:
    script = place.write("nest", f"#!/bin/sh\nsleep 1000 &\nexec {place.service} {NAME}\n")
    place.add(NAME, str(script))
    wrap_in_refusal(place, refusing.PIDFD_OPEN, errno.ENOSYS)
    async with place.serve("--stop-timeout=0.2") as bus:
        await bus.echo(NAME)
        pids = await bus.get(NAME, "PIDs")
        assert len(pids) == 2
        await bus.client.call("StopService", "s", NAME)
        assert [pid for pid in pids if procfs.alive(pid)] == []
        assert await bus.echo(NAME) == "hello"
        assert await bus.client.get(ROOT, MANAGER, "NFaults") == 0
        bus.kill(signal.SIGTERM)
        assert "Traceback" not in await bus.ended()
        assert bus.status == 0


# A broker whose rules hold one that cannot be: what ResetFailed does to a service at rest.
BROKEN_RULES: Final = """\
#!{python}
from broker import cli
from broker.core import events, service
from broker.core.state import State

service.TRANSITIONS[State.DEAD, events.ResetFailed] = service._row(service.Service._impossible)
cli.main()
"""
RESET: Final = (
    "busctl --address=$DBUS_SESSION_BUS_ADDRESS call org.activation.Broker1 "
    "/org/activation/Broker1 org.activation.Broker1.Manager ResetFailed s ''; exec sleep 1000"
)


@pytest.mark.parametrize("user", ["self"], indirect=True)
def test_a_fault_in_the_rules_ends_the_session_with_its_own_status(place: Place) -> None:
    place.add(NAME)
    python = place.user.command.parent / "python"
    place.user = Installation(place.write("broken", BROKEN_RULES.format(python=python)))
    done = place.run("sh", "-c", RESET)
    assert done.returncode == 127
    assert done.stderr.count("AssertionError") == done.stderr.count("Traceback") == 2
    assert re.search(
        rf"^dbus-activator: {NAME}: ResetFailed failed half-way: .* in state DEAD\Z",
        done.stderr.strip(),
        re.MULTILINE,
    )
