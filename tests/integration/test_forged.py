"""Followers of a real broker, while others send them what the broker does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.bus.codec import Message, MessageType, Variant
from tests.aio_client import MANAGER, ROOT, SERVICE
from tests.integration.buses import TEST, standing_still
from tests.integration.test_lost_connection import cut, owner, until_served

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = [
    pytest.mark.asyncio,
    # Whose they are has nothing to do with it.
    pytest.mark.parametrize("user", ["self"], indirect=True),
]

NAME: Final = f"{TEST}.One"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"


def forged(path: str) -> list[tuple[str, str, str, str, list[Any]]]:
    """Path, interface, member, signature and body of each."""
    details = {
        "Command": Variant("s", "forged"),
        "Origin": Variant("s", "spawned"),
        **{each: Variant("t", 1) for each in ("UserUSec", "SystemUSec", "MaxRSSBytes")},
    }
    changed = {
        "ActiveState": Variant("s", "failed"),
        "SubState": Variant("s", "failed"),
        "Owner": Variant("s", ":1.99"),
        "ExecMainPID": Variant("u", 7),
        "ExecMainCode": Variant("i", 1),
        "ExecMainStatus": Variant("i", 77),
    }
    exited = ["/x", NAME, 7, 1, 77, details]
    return [
        ("/x", "org.evil.Any", "ProcessExited", "su", ["x", 1]),
        (ROOT, MANAGER, "ProcessExited", "s", ["x"]),
        (ROOT, MANAGER, "ProcessExited", "osuiia{sv}", exited),
        (ROOT, MANAGER, "LogAppended", "s", [NAME]),
        (ROOT, MANAGER, "LogAppended", "st", [NAME, 2**63]),
        (path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [SERVICE, changed, []]),
        (ROOT, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "s", ["x"]),
        (ROOT, "org.freedesktop.DBus", "NameOwnerChanged", "s", ["x"]),
    ]


async def send_to_all(bus: Bus) -> None:
    """Everything that is forged, to every connection."""
    stranger = bus.client.bus
    (names,) = await stranger.call_bus("ListNames")
    for name in names:
        if name.startswith(":") and name != stranger.unique_name:
            for path, interface, member, signature, body in forged(await bus.path_of(NAME)):
                head = (name, path, interface, member, MessageType.SIGNAL)
                stranger.send(Message(*head, signature=signature, body=body))
    await stranger.sync()


def start(bus: Bus, *argv: str) -> subprocess.Popen[str]:
    environ = bus.place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
    command = [str(bus.place.user.command), *argv]
    pipe = subprocess.PIPE
    process: subprocess.Popen[str] = bus.place.user.popen(
        command, env=environ, stdout=pipe, stderr=pipe, text=True
    )
    return process


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await asyncio.to_thread(process.stdout.readline)


async def test_forged_signals_are_nobodys(place: Place) -> None:
    script = place.write("one", f"#!/bin/sh\necho hello\nexec {place.service} {NAME}\n")
    place.add(NAME, str(script))
    async with place.serve("--output=capture") as bus:
        await bus.echo(NAME)
        # The first: it says nothing, and has subscribed when the others have.
        waiting = start(bus, "wait", "--for=exit", NAME)
        monitor = start(bus, "monitor", "--json=short")
        logs = start(bus, "logs", "-f", NAME)
        try:
            assert "hello" in await line(logs)
            assert monitor.stderr is not None
            assert "monitoring" in await asyncio.to_thread(monitor.stderr.readline)
            await send_to_all(bus)
            await bus.client.call("KillService", "ssi", NAME, "all", signal.SIGKILL)
            assert await asyncio.to_thread(waiting.wait) == 128 + signal.SIGKILL
            events: list[dict[str, Any]] = []
            while not events or events[-1].get("SubState") != "failed":
                events.append(json.loads(await line(monitor)))
            assert [each["Event"] for each in events] == ["exited", "state"]
            assert events[0]["Status"] == signal.SIGKILL
            await bus.client.call("StartService", "s", NAME)
            assert "hello" in await line(logs)
            for process in (monitor, logs):
                process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(process.wait) == 0
                assert process.stderr is not None
                assert process.stderr.read() == ""
        finally:
            for process in (monitor, waiting, logs):
                process.kill()
                process.communicate()


async def test_those_that_follow_survive_a_cut_connection_of_the_broker(place: Place) -> None:
    """It reconnects; the service ends while there is no connection."""
    script = place.write("one", f"#!/bin/sh\necho hello\nexec {place.service} {NAME}\n")
    place.add(NAME, str(script))
    async with place.serve("--output=capture") as bus:
        await bus.echo(NAME)
        pid = await bus.get(NAME, "MainPID")
        before = await owner(bus)
        waiting = start(bus, "wait", "--for=exit", NAME)
        monitor = start(bus, "monitor", "--json=short")
        logs = start(bus, "logs", "-f", NAME)
        try:
            assert "hello" in await line(logs)
            assert monitor.stderr is not None
            assert "monitoring" in await asyncio.to_thread(monitor.stderr.readline)
            with standing_still(bus.engine):
                cut(bus)
                os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(waiting.wait) == 128 + signal.SIGKILL
            while json.loads(await line(monitor)).get("SubState") != "failed":
                pass
            await until_served(bus, before)
            await bus.client.call("StartService", "s", NAME)
            assert "hello" in await line(logs)
            assert (logs.poll(), monitor.poll()) == (None, None)
        finally:
            for process in (monitor, waiting, logs):
                process.kill()
                process.communicate()


async def test_a_wait_ends_where_the_broker_is_stopped(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        with standing_still(bus.pid):
            waiting = start(bus, "wait", "--timeout=1", NAME)
            _, err = await asyncio.to_thread(waiting.communicate, timeout=20)
            assert waiting.returncode == 124
            assert err.startswith(f"dbus-activator: {NAME} has not taken its name: no answer")
        assert (await bus.echo(NAME)) == "hello"
