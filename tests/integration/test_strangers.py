"""Other users: none can connect, and where a bus lets them in, they read and change nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.api import paths
from broker.bus import address
from broker.bus.connection import Connection
from broker.bus.objects import PROPERTIES
from broker.client import BUS_NAME, MANAGER, ROOT
from broker.errors import FDO, Disconnected, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.bus.interface import InterfaceSpec
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME: Final = "org.activation.Test.One"
# "daemon", who exists everywhere (dbus-daemon wants to know a user's groups), and nobody at all.
STRANGERS: Final = (1, 12345)
# Only root can be somebody else; an ordinary user's tests have nobody to try.
ROOT_RUNS_THIS: Final = os.geteuid() == 0

# Both engines with everybody's connections allowed, and all else as it is.
OPEN_BUS: Final = """\
#!{python}
from broker import cli
from broker.engine import dbus_broker, dbus_daemon

closed = dbus_broker.policy


def policy(version, uid):
    variant = closed(version, uid)
    default, owners = variant.value[0][:2]
    default[1] = owners[1]
    return variant


dbus_broker.policy = policy
dbus_daemon._OPEN = dbus_daemon._OPEN.replace('user="root"', 'user="*"')
cli.main()
"""


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """The kernel notes the effective user of whoever connects."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


async def connect(bus: Bus, uid: int) -> Connection:
    """As that user; the place and the socket are open to everybody."""
    bus.place.path.chmod(0o755)
    (bus.place.path / "bus").chmod(0o777)
    with acting_as(uid):
        sock = address.connect(bus.address)
    return await Connection.to_bus(sock)


async def test_other_users_cannot_connect(place: Place) -> None:
    if not ROOT_RUNS_THIS:
        return
    place.add(NAME)
    own = place.user.uid or 0
    async with place.serve() as bus:
        for uid in {*STRANGERS, 65534} - {own}:
            with pytest.raises(Disconnected):
                await connect(bus, uid)
        # Its own user and root can, on the same way.
        for uid in {own, 0}:
            connection = await connect(bus, uid)
            assert await connection.call(BUS_NAME, ROOT, MANAGER, "GetService", "s", [NAME])
            connection.close()
            await connection.wait_closed()


ARGUMENTS: Final[dict[str, list[Any]]] = {
    "StartService": [NAME],
    "StopService": [NAME],
    "KillService": [NAME, "all", 9],
    "ResetFailed": [NAME],
    "GetService": [NAME],
    "GetLog": [NAME, 0, 0],
    "SetEnvironment": [["LD_PRELOAD=/x.so"]],
    "UnsetEnvironment": [["HOME"]],
    "Kill": ["all", 9],
}
READERS: Final = {
    "GetLog",
    "GetProcess",
    "GetService",
    "GetServiceByPID",
    "ListLeaks",
    "ListServices",
    "ListServiceStates",
}


async def test_a_stranger_reads_everything_and_changes_nothing(place: Place) -> None:
    if not ROOT_RUNS_THIS:
        return
    place.add(NAME)
    python = place.user.command.parent / "python"
    script = place.write("open-bus", OPEN_BUS.format(python=python))
    place = dataclasses.replace(place, user=dataclasses.replace(place.user, command=script))
    async with place.serve("--output=capture") as bus:
        await bus.echo(NAME)
        before = await bus.client.snapshot()
        environment = await bus.client.get(ROOT, MANAGER, "Environment")
        (service,) = before.services
        process = next(iter(before.processes))
        stranger = await connect(bus, STRANGERS[0])
        pid = await bus.get(NAME, "MainPID")

        async def attempt(path: str, spec: InterfaceSpec, member: str) -> str:
            signature = spec.methods[member].arguments
            arguments = [pid] if signature == "u" else ARGUMENTS[member] if signature else []
            try:
                await stranger.call(BUS_NAME, path, spec.name, member, signature, arguments)
            except RemoteError as e:
                return f"{e.name}: {e}"
            return ""

        for path, spec in ((ROOT, paths.MANAGER), (service, paths.SERVICE)):
            assert spec.methods
            for member in spec.methods:
                refusal = await attempt(path, spec, member)
                denied = refusal.startswith(f"{FDO}AccessDenied: uid {STRANGERS[0]} may not")
                assert (refusal == "") if member in READERS else denied, (member, refusal)
        for path, spec in (
            (ROOT, paths.MANAGER),
            (service, paths.SERVICE),
            (process, paths.PROCESS),
        ):
            (values,) = await stranger.call(
                BUS_NAME, path, PROPERTIES.name, "GetAll", "s", [spec.name]
            )
            assert values.keys() == spec.properties.keys()
        for interface, member in (
            ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
            ("org.freedesktop.DBus.Introspectable", "Introspect"),
            ("org.freedesktop.DBus.Peer", "Ping"),
        ):
            await stranger.call(BUS_NAME, ROOT, interface, member)
        # The bus's own way to the environment is the engine's to guard, and it does.
        with pytest.raises(RemoteError) as caught:
            await stranger.call_bus("UpdateActivationEnvironment", "a{ss}", [{"LD_PRELOAD": "/x"}])
        assert caught.value.name == FDO + "AccessDenied"
        await bus.client.call("GetService", "s", NAME)
        assert await bus.client.get(ROOT, MANAGER, "Environment") == environment
        assert await bus.get(NAME, "MainPID", "NActivations") == (pid, 1)
        assert bus.status is None
        stranger.close()
        await stranger.wait_closed()
