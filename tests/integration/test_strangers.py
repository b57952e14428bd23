"""Other users: none can connect, and where a bus lets them in, they read and change nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.api import paths
from broker.bus.objects import OBJECT_MANAGER, PROPERTIES
from broker.errors import FDO, Disconnected, RemoteError
from tests.aio_client import BUS_NAME, MANAGER, PROCESS, ROOT, SERVICE, Client, plain
from tests.integration.strangers import STRANGERS, connect, open_to_all
from tests.integration.worlds import wrap

if TYPE_CHECKING:
    from pathlib import Path

    from broker.bus.interface import InterfaceSpec
    from tests.integration.buses import Installation, Place

pytestmark = [pytest.mark.asyncio, pytest.mark.square]

NAME: Final = "org.activation.Test.One"
FAILS: Final = "org.activation.Test.Fails"
# Only root can be somebody else; an ordinary user's tests have nobody to try.
ROOT_RUNS_THIS: Final = os.geteuid() == 0


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
    "GetProcess",
    "GetService",
    "GetServiceByPID",
    "ListServices",
    "ListServiceStates",
}


async def test_a_stranger_reads_what_is_public_and_changes_nothing(place: Place) -> None:
    if not ROOT_RUNS_THIS:
        return
    place.add(NAME)
    open_to_all(place)
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
            (OBJECT_MANAGER.name, "GetManagedObjects"),
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


# What others may not have, in whichever message it comes.
SECRET: Final = "hunter2"  # noqa: S105 - a word to look for


def keep_secrets(place: Place) -> None:
    """Two services that say one, of which one fails; the other has one in a command line."""
    said = f"#!/bin/sh\necho the password is {SECRET} >&2\n"
    # An orphan's, since the command line of a descriptor is in a file that all may read.
    orphan = f"(sh -c 'sleep 1000; :' {SECRET} &)\n"
    talks = place.write("talks", f'{said}{orphan}exec {place.service} "$@" {SECRET}\n')
    fails = place.write("fails", f"{said}exit 3\n")
    place.add(NAME, f"{talks} {NAME}")
    place.add(FAILS, str(fails))


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_a_stranger_is_told_no_secret(place: Place) -> None:
    keep_secrets(place)
    open_to_all(place)
    environ = place.environ(PASSWORD=SECRET)
    async with place.serve("--output=capture", environ=environ) as bus:
        stranger = await connect(bus, STRANGERS[0])
        client = Client(stranger, bus.address)
        told: list[Any] = []
        await client.subscribe(told.append)
        await bus.echo(NAME)
        processes: dict[str, Any] = {}
        # All of it is there, for its owner; the orphan executes its shell when it likes.
        while not (
            secret := [path for path, each in processes.items() if SECRET in each["Command"]]
        ):
            processes = (await bus.client.snapshot()).processes
        for name in (NAME, FAILS):
            try:
                await stranger.call(name, "/", "org.activation.Test", "Echo", "s", ["x"])
            except RemoteError as e:
                told.append(str(e))
        managed = await stranger.call(BUS_NAME, ROOT, OBJECT_MANAGER.name, "GetManagedObjects")
        told.append(plain(managed))
        told.append(await stranger.call(BUS_NAME, ROOT, PROPERTIES.name, "GetAll", "s", [MANAGER]))
        (orphan, *_) = secret
        service = await bus.path_of(NAME)
        assert SECRET in await bus.get(NAME, "OwnerCommand")
        assert f"PASSWORD={SECRET}" in await bus.client.get(ROOT, MANAGER, "Environment")
        ((line,), _) = await bus.client.call("GetLog", "stu", FAILS, 0, 0)
        assert SECRET in line[-1]
        for path, interface, name in (
            (ROOT, MANAGER, "Environment"),
            (orphan, PROCESS, "Command"),
            (service, SERVICE, "OwnerCommand"),
        ):
            with pytest.raises(RemoteError) as caught:
                await client.get(path, interface, name)
            assert caught.value.name == f"{FDO}AccessDenied"
        await bus.client.call("StopService", "s", NAME)
        # Behind all signals of before.
        await client.call("ListServices")
        members = {each.member for each in told if not isinstance(each, str | list)}
        assert members >= {"ActivationFailed", "InterfacesAdded", "ProcessExited"}
        assert orphan in managed[0]
        assert SECRET not in repr(told)
        stranger.close()
        await stranger.wait_closed()


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_verbs_say_what_is_withheld(place: Place, ordinary: Installation) -> None:
    keep_secrets(place)
    open_to_all(place)
    async with place.serve("--output=capture") as bus:
        await bus.echo(NAME)
        (await connect(bus, 0)).close()  # the place is open to everybody now

        def verb(*arguments: str) -> tuple[int, str, str]:
            argv: list[str | Path] = [ordinary.command, *arguments, f"--address={bus.address}"]
            done = ordinary.run(argv, env=place.environ())
            assert SECRET not in done.stdout + done.stderr
            return done.returncode, done.stdout, done.stderr

        denied = "uid 65534 may not do this; uid 0 and root may\n"
        assert verb("env") == (1, "", f"dbus-activator: {denied}")
        assert verb("logs", NAME) == (1, "", f"dbus-activator: {denied}")
        code, stdout, stderr = verb("status", NAME)
        assert code == 0
        assert "active (running)" in stdout
        note = "dbus-activator: command lines are not shown: only for the broker's own user"
        assert stderr == (
            f"dbus-activator: the output of {NAME} is not shown: {denied}{note} and root\n"
        )
        code, stdout, stderr = verb("ps", NAME)
        assert (code, stderr) == (0, f"{note} and root\n")
        assert stdout.count("-\n") == 1
        assert "-  (adopted)" in stdout


@pytest.mark.parametrize(("user", "engine"), [("self", "dbus-daemon")], indirect=True)
async def test_a_configuration_that_lets_others_in_tells_everybody_less(place: Place) -> None:
    """No stranger needs to connect first: a user that a rule lets in may only listen."""
    keep_secrets(place)
    wrap(place, "ulimit -s 1024")
    for rules, secret in (("", True), ('<allow user="root"/>', True), ('<allow user="*"/>', False)):
        config = f"""<busconfig><policy context="default">
          <allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>{rules}
          </policy></busconfig>"""
        place.write("bus.conf", config)
        options = (f"--config-file={place.path}/bus.conf", "--output=capture")
        async with place.serve(*options) as bus:
            with pytest.raises(RemoteError) as caught:
                await bus.client.call("StartService", "s", FAILS)
            failed = await bus.signal("ActivationFailed")
            assert (SECRET in str(caught.value)) is secret
            assert (SECRET in repr(failed)) is secret
            # Nor of what is in the environment: here more than execve carries.
            variables = [f"{SECRET}{number}={'x' * 100_000}" for number in range(4)]
            await bus.client.call("SetEnvironment", "as", variables)
            with pytest.raises(RemoteError, match="Argument list too long") as caught:
                await bus.client.call("StartService", "s", NAME)
            assert (SECRET in str(caught.value)) is secret
