"""What is shown of processes and owners: their service, their start and their origin."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest

from broker.cli.words import span
from broker.process import procfs
from tests.integration.buses import TEST

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.aio_client import Signal
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME: Final = f"{TEST}.One"
OTHER: Final = f"{TEST}.Other"


async def verb(bus: Bus, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a bus, to its end."""
    user = bus.place.user
    command: list[str | Path] = [user.command, *argv, f"--address={bus.address}"]
    return await asyncio.to_thread(user.run, command, env=bus.place.environ())


async def facts(bus: Bus, target: str) -> dict[str, str]:
    """What ``status`` says of a service."""
    done = await verb(bus, "status", target)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    return {"Name": lines[0][2:]} | dict(each.split(": ", 1) for each in lines if ": " in each)


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
        shown = (await verb(bus, "ps", "--exited", "--no-legend")).stdout.splitlines()
        flat = [line for line in shown if "(adopted)" in line and "\u2500 " not in line]
        assert flat == []


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_the_owner_is_named_however_it_was_started(place: Place) -> None:
    """Ourselves, who are not the broker's; then a process of the service; then one of another."""
    for name in (NAME, OTHER):
        place.add(name)
    async with place.serve() as bus:
        assert await bus.get(NAME, "OwnerPID", "OwnerCommand") == (0, [])
        pid, command = os.getpid(), list(procfs.arguments(os.getpid()))
        await bus.client.bus.call_bus("RequestName", "su", [NAME, 0])
        await bus.state(NAME, "external")
        assert await bus.get(NAME, "OwnerPID", "OwnerCommand", "MainPID") == (pid, command, 0)
        rows = (await verb(bus, "list", "--no-legend", "--running")).stdout.splitlines()
        assert [row.split()[:4] for row in rows] == [[NAME, "active", str(pid), "-"]]
        (listed,) = json.loads((await verb(bus, "list", "--running", "--json=short")).stdout)
        assert (listed["MainPID"], listed["OwnerPID"], listed["OwnerCommand"]) == (0, pid, command)
        for target in (NAME, str(pid)):
            found = await facts(bus, target)
            assert found["Name"] == NAME
            unique, _, rest = found["Owner"].partition(", ")
            assert (unique, rest) == (bus.client.bus.unique_name, f"{pid} {' '.join(command)}")
        await bus.client.bus.call_bus("ReleaseName", "s", [NAME])
        await bus.state(NAME, "dead")
        assert await bus.get(NAME, "OwnerPID", "OwnerCommand") == (0, [])
        assert (await verb(bus, "status", str(pid))).returncode == 4
        await bus.echo(OTHER)
        main = await bus.get(OTHER, "MainPID")
        owned = (main, [str(place.service), OTHER])
        assert await bus.get(OTHER, "OwnerPID", "OwnerCommand") == owned
        # One program for several names, of which another was asked for first.
        await bus.call(OTHER, "Take", "s", NAME)
        await bus.state(NAME, "running")
        assert await bus.get(NAME, "OwnerPID", "OwnerCommand") == owned
        changed = [
            each.body[1]["OwnerPID"]
            async for each in told(bus, await bus.path_of(NAME), main)
            if "OwnerPID" in each.body[1]
        ]
        assert changed == [pid, 0, main]


async def told(bus: Bus, path: str, last: int) -> AsyncIterator[Signal]:
    """The changes of an object, up to that of its owner to the last one."""
    async for each in bus.signals():
        if (each.path, each.member) == (path, "PropertiesChanged"):
            yield each
            if each.body[1].get("OwnerPID") == last:
                return


@pytest.mark.parametrize(("user", "engine"), [("self", "dbus-daemon")], indirect=True)
async def test_two_providers_of_a_name_are_shown_and_not_complained_of(place: Place) -> None:
    place.add(NAME)
    loser = place.services / f"{NAME}.service.again.service"
    loser.write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/false\n")
    async with place.serve() as bus:
        await bus.echo(NAME)
        assert await bus.get(NAME, "Shadowed") == [str(loser)]
        found = await facts(bus, NAME)
        assert found["Loaded"] == str(place.services / f"{NAME}.service")
        assert found["Shadowed"] == str(loser)
        verified = place.user.run([place.user.command, "verify", str(place.services)])
        assert f"provides {NAME} already" in verified.stdout
        loser.unlink()
        await bus.client.call("Reload")
        assert await bus.get(NAME, "Shadowed") == []
        assert "Shadowed" not in await facts(bus, NAME)
        bus.kill(signal.SIGTERM)
        assert await bus.ended() == ""


@pytest.mark.parametrize(("user", "engine"), [("self", "dbus-daemon")], indirect=True)
async def test_plot_and_blame_know_every_activation(place: Place) -> None:
    """And no owner that nobody has activated."""
    place.add(NAME)
    place.add(OTHER)
    async with place.serve() as bus:
        await bus.client.bus.call_bus("RequestName", "su", [OTHER, 0])
        await bus.state(OTHER, "external")
        for _ in range(3):
            await bus.echo(NAME)
            await bus.client.call("StopService", "s", NAME)
        found = json.loads((await verb(bus, "analyze", "blame", "--json=short")).stdout)
        assert {(each["Name"], each["Result"]) for each in found} == {(NAME, "success")}
        assert sorted(each["Activation"] for each in found) == [1, 2, 3]
        lines = (await verb(bus, "analyze", "blame")).stdout.splitlines()
        assert sorted(line.split()[1:] for line in lines) == [[NAME, f"#{n}"] for n in (1, 2, 3)]
        # It is the owner's time that the service's own timestamps tell from here on.
        await bus.client.bus.call_bus("RequestName", "su", [NAME, 0])
        await bus.state(NAME, "external")
        (third,) = [each for each in found if each["Activation"] == 3]
        assert (await facts(bus, NAME))["Activation"] == f"#3, took {span(third['USec'])}"
        picture = (await verb(bus, "analyze", "plot")).stdout
        chart = picture[: picture.rindex("</title></rect>")]
        assert (chart.count('class="active"'), chart.count('class="external"')) == (3, 2)
