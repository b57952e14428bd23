"""Descriptors that appear, change and go while the bus runs: noticed, and at once on reload."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.aio_client import SERVICE, Client
from tests.integration import standin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.New"
ROUNDS = 10


async def listed(client: Client) -> list[str]:
    (names,) = await client.bus.call_bus("ListActivatableNames")
    return [name for name in names if name.startswith("org.activation.Test")]


async def found(client: Client, name: str, *, there: bool = True) -> None:
    """Wait until the bus can, or cannot, activate a name; nobody has told it to look."""
    async with asyncio.timeout(10):
        while (name in await listed(client)) is not there:
            await client.call("ListServices")


async def has(client: Client, name: str, key: str, value: object) -> None:
    """Wait until a service has another descriptor."""
    async with asyncio.timeout(10):
        (path,) = await client.call("GetService", "s", name)
        while await client.get(path, SERVICE, key) != value:
            await client.call("ListServices")


def put(directory: Path, place: Place, name: str) -> Path:
    """A descriptor in a directory that is made for it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.service"
    path.write_text(f"[D-BUS Service]\nName={name}\nExec={place.service} {name}\n")
    return path


async def test_a_reload_by_a_client_is_a_barrier(place: Place) -> None:
    async with place.serve() as bus:
        for number in range(ROUNDS):
            name = f"{NAME}{number}"
            place.add(name)
            await bus.client.bus.call_bus("ReloadConfig")
            assert name in await listed(bus.client)
            assert await bus.client.bus.call_bus("StartServiceByName", "su", [name, 0]) == [1]
            (place.services / f"{name}.service").unlink()
            await bus.client.bus.call_bus("ReloadConfig")
            assert name not in await listed(bus.client)


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_new_changed_and_removed_files_are_seen_untold(place: Place) -> None:
    later = place.services / "later"
    later.symlink_to("first")
    (place.services / "first").mkdir()
    options = [f"--services={later}"]
    async with place.serve(*options) as bus:
        path = put(place.services, place, NAME)
        await found(bus.client, NAME)
        # Another program.
        path.write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/false\n")
        await has(bus.client, NAME, "ExecStart", ["/bin/false"])
        path.unlink()
        await found(bus.client, NAME, there=False)
        # A link is whole when it is made, and nobody closes it.
        elsewhere = put(place.path / "elsewhere", place, NAME)
        path.symlink_to(elsewhere)
        await found(bus.client, NAME)
        path.unlink()
        await found(bus.client, NAME, there=False)
        # The directory is turned to another one, as package managers do with whole trees.
        put(place.services / "second", place, NAME)
        (place.services / "link").symlink_to("second")
        os.rename(place.services / "link", later)
        await found(bus.client, NAME)


async def come_and_go(place: Place, client: Client, home: Path, data: Path) -> None:
    transient = place.path / "dbus-1" / "services"
    assert transient.stat().st_mode & 0o777 == 0o700
    users, installed = home / ".local/share/dbus-1/services", data / "dbus-1/services"
    for directory in (transient, users, installed):
        for _ in range(2):
            put(directory, place, NAME)
            await found(client, NAME)
            shutil.rmtree(directory)
            await found(client, NAME, there=False)
    # A user's own file goes before the installed one, and that is there again after it.
    path = put(installed, place, NAME)
    await found(client, NAME)
    own = put(users, place, NAME)
    await has(client, NAME, "DescriptorPath", str(own))
    own.unlink()
    await has(client, NAME, "DescriptorPath", str(path))


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_directories_that_appear_later_are_seen_untold(place: Place) -> None:
    home, data = place.path / "home", place.path / "data" / "of" / "mine"
    environ = place.environ(HOME=str(home), XDG_DATA_DIRS=str(data))
    async with place.serve("--standard-services", environ=environ) as bus:
        await come_and_go(place, bus.client, home, data)


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_in_dbus_daemons_place_they_are_seen_too(place: Place, link: Path) -> None:
    home, data = place.path / "home", place.path / "data" / "of" / "mine"
    with standin.bus(place, link, "--session", HOME=str(home), XDG_DATA_DIRS=str(data)) as found:
        async with await Client.connect(found.address) as client:
            await come_and_go(place, client, home, data)


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_a_burst_is_one_reload(place: Place) -> None:
    async with place.serve() as bus:
        changes: list[str | None] = []
        await bus.client.bus.call_bus(
            "AddMatch", "s", ["type='signal',member='ActivatableServicesChanged'"]
        )
        bus.client.bus.on_message = lambda message: changes.append(message.member)
        names = [f"{NAME}{number}" for number in range(200)]
        for name in names:
            place.add(name)
        for name in names:
            await found(bus.client, name)
        if place.engine == "dbus-daemon":
            # Where the machine is busy it is some, each with one of dbus-daemon's own.
            assert changes.count("ActivatableServicesChanged") < len(names) / 4
        # A file that was read half-written is nobody's mistake.
        bus.kill(signal.SIGTERM)
        assert await bus.ended() == ""
