"""What a service is started with."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

import pytest

from broker.core.environment import LISTED, MAX_VARIABLE
from broker.errors import FDO, RemoteError
from tests.aio_client import MANAGER, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"


async def environment_of(bus: Bus) -> dict[str, str]:
    """As the service itself sees it."""
    entries = await bus.call(NAME, "Environment")
    return dict(entry.split("=", 1) for entry in entries)


async def test_the_brokers_own_and_the_starters_variables(place: Place) -> None:
    place.add(NAME)
    environ = place.environ(
        SOME="thing",
        LISTEN_FDNAMES="x",
        WATCHDOG_USEC="1",
        INVOCATION_ID="y",
        DBUS_STARTER_ADDRESS="of another bus",
        DBUS_SESSION_BUS_ADDRESS="of another bus",
    )
    async with place.serve(environ=environ) as bus:
        found = await environment_of(bus)
        # Ours is at the end of PATH, so that demo services are found.
        assert found.pop("PATH").startswith(environ["PATH"])
        assert found == {
            "HOME": environ["HOME"],
            "XDG_RUNTIME_DIR": environ["XDG_RUNTIME_DIR"],
            "SOME": "thing",
            "DBUS_SESSION_BUS_ADDRESS": bus.address,
            "DBUS_STARTER_ADDRESS": bus.address,
            "DBUS_STARTER_BUS_TYPE": "session",
        }


async def test_changes_reach_the_next_activation(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.client.call("SetEnvironment", "as", ["ADDED=1", "HOME=/elsewhere"])
        await bus.client.bus.call_bus(
            "UpdateActivationEnvironment", "a{ss}", [{"UPDATED": "a=b", "EMPTY": ""}]
        )
        found = await environment_of(bus)
        wanted = {"ADDED": "1", "HOME": "/elsewhere", "UPDATED": "a=b", "EMPTY": ""}
        assert found.items() >= wanted.items()
        await bus.client.call("StopService", "s", NAME)
        await bus.client.call("UnsetEnvironment", "as", ["ADDED", "NEVER_SET"])
        again = await environment_of(bus)
        assert again.keys() == found.keys() - {"ADDED"}
        shown = await bus.client.get(ROOT, "org.activation.Broker1.Manager", "Environment")
        assert "UPDATED=a=b" in shown
        assert not [entry for entry in shown if entry.startswith("ADDED")]


@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("way", ["ours", "the bus's"])
async def test_values_of_many_lines_are_carried(place: Place, way: str) -> None:
    """An exported function of a shell, and a certificate."""
    place.add(NAME)
    lines = {"BASH_FUNC_f%%": "() {  true\n}", "PEM": "-----BEGIN-----\nAA==\n\n-----END-----\n"}
    async with place.serve() as bus:
        assert await set_environment(bus, way, lines) == ""
        assert (await environment_of(bus)).items() >= lines.items()
        assert await said_at_the_end(bus) == []


async def test_the_bus_address_cannot_be_changed_by_clients(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.client.call("SetEnvironment", "as", ["DBUS_SESSION_BUS_ADDRESS=unix:path=/x"])
        found = await environment_of(bus)
        assert found["DBUS_SESSION_BUS_ADDRESS"] == bus.address


async def set_environment(bus: Bus, way: str, changes: Mapping[str, str]) -> str:
    """By our interface or by the bus's; the error's name, empty if there was none."""
    try:
        if way == "ours":
            assignments = [f"{name}={value}" for name, value in changes.items()]
            await bus.client.call("SetEnvironment", "as", assignments)
        else:
            await bus.client.bus.call_bus("UpdateActivationEnvironment", "a{ss}", [dict(changes)])
    except RemoteError as e:
        assert way == "ours"  # the bus has no say in what we take
        return e.name
    return ""


async def shown(bus: Bus) -> dict[str, str]:
    entries = await bus.client.get(ROOT, MANAGER, "Environment")
    return dict(entry.split("=", 1) for entry in entries)


async def said_at_the_end(bus: Bus) -> list[str]:
    bus.kill(signal.SIGTERM)
    return (await bus.ended()).splitlines()


@pytest.mark.parametrize("way", ["ours", "the bus's"])
async def test_megabytes_are_refused_with_the_reason(place: Place, way: str) -> None:
    place.add(NAME)
    large = {"LARGE": "x" * MAX_VARIABLE}
    many = {f"V{number}": "y" * 10_000 for number in range(100)}
    more = {f"W{number}": "z" * 10_000 for number in range(5)}
    tiny = {f"T{number}": "" for number in range(20_000)}
    async with place.serve() as bus:
        for changes, error in (
            (large, "InvalidArgs"),
            (many, ""),
            (more, "LimitsExceeded"),
            (tiny, "LimitsExceeded"),
        ):
            answer = await set_environment(bus, way, changes)
            assert answer == (FDO + error if error and way == "ours" else "")
        found = await shown(bus)
        assert found.items() >= many.items()
        assert not {name for name in found if name.startswith(("L", "W", "T"))}
        # What was taken can be carried.
        assert (await environment_of(bus)).items() >= many.items()
        said = await said_at_the_end(bus)
    assert all(len(line) < 1000 for line in said)
    if way != "ours":
        assert [line for line in said if "LARGE has 131079 bytes" in line]
        assert [line for line in said if "the activation environment would have" in line]


async def test_thousands_of_bad_names_are_a_few_lines_of_log(place: Place) -> None:
    place.add(NAME)
    bad = {f"BAD\n{number}": "x" for number in range(3000)} | {"": "no name", "GOOD": "1"}
    async with place.serve() as bus:
        await set_environment(bus, "the bus's", bad)
        assert (await environment_of(bus))["GOOD"] == "1"
        said = await said_at_the_end(bus)
    assert len(said) < 10
    assert [line for line in said if line.endswith(f"and {3001 - LISTED} more")]


@pytest.mark.parametrize("way", ["ours", "the bus's"])
async def test_variables_that_load_code_are_allowed_and_logged(place: Place, way: str) -> None:
    place.add(NAME)
    changes = {"LD_LIBRARY_PATH": "/nonexistent", "PYTHONPATH": "/elsewhere", "PLAIN": "1"}
    async with place.serve() as bus:
        assert await set_environment(bus, way, changes) == ""
        assert (await environment_of(bus)).items() >= changes.items()
        await bus.state(NAME, "running")
        caller = bus.client.bus.unique_name
        said = await said_at_the_end(bus)
    who = f"SetEnvironment, called by {caller}," if way == "ours" else "UpdateActivationEnvironment"
    assert said == [f"dbus-activator: {who} sets LD_LIBRARY_PATH, PYTHONPATH for all services"]


async def test_what_execve_cannot_carry_fails_the_spawn_and_says_which(place: Place) -> None:
    """Where the limit on the stack is small: a quarter of it is all that execve takes."""
    place.add(NAME)
    limited = place.write("limited", f'#!/bin/sh\nulimit -s 1024\nexec {place.user.command} "$@"\n')
    place = dataclasses.replace(place, user=dataclasses.replace(place.user, command=limited))
    async with place.serve() as bus:
        changes = {f"V{number}": "x" * 90_000 for number in range(3)} | {"MOST": "x" * 100_000}
        assert await set_environment(bus, "ours", changes) == ""
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NAME)
        assert caught.value.name == FDO + "LimitsExceeded"
        assert "Argument list too long" in str(caught.value)
        assert str(caught.value).endswith("most of them in MOST")
        assert await bus.get(NAME, "Result") == "resources"
        await bus.client.call("UnsetEnvironment", "as", list(changes))
        assert await bus.echo(NAME) == "hello"
