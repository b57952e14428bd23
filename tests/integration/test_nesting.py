"""Brokers that are services of brokers: no level is taken for another, alive or killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.aio_client import BUS_NAME, Client
from tests.integration.buses import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from tests.integration.buses import Bus

pytestmark = [
    pytest.mark.square,
    pytest.mark.asyncio,
    pytest.mark.parametrize("verb", ["serve", "run"]),
]

LEAF = "org.activation.Test.Leaf"
# The tag has room for a broker in a broker in a broker; the one below has none.
UNTAGGED = 3

# The broker is a child of the service that takes the name.
SERVE = """#!/bin/sh
{command} serve --engine={engine} --services={services} \
    --address=unix:path={path}/bus --print-address=3 3>{path}/address &
exec {service} {name}
"""
# The service is the command that the broker runs; it takes its name on the bus around that.
RUN = """#!/bin/sh
export OUTER=$DBUS_SESSION_BUS_ADDRESS
exec {command} run --engine={engine} --services={services} -- sh -c '
    echo $DBUS_SESSION_BUS_ADDRESS >{path}/address
    DBUS_SESSION_BUS_ADDRESS=$OUTER exec {service} {name}'
"""


@dataclass(frozen=True, slots=True)
class Level:
    """A bus with a broker: the outermost is level 0.

    Attributes:
        pid: of the broker.
    """

    number: int
    place: Place
    client: Client
    pid: int

    async def call(self, name: str) -> None:
        """Activate a service."""
        member = ("/", "org.activation.Test", "Echo", "s", ["hello"])
        assert await self.client.bus.call(name, *member, timeout=40) == ["hello"]

    async def pids(self, name: str) -> list[int]:
        """All processes of a service."""
        (path,) = await self.client.call("GetService", "s", name)
        found: list[int] = await self.client.get(path, f"{BUS_NAME}.Service", "PIDs")
        return found

    async def service_of(self, pid: int) -> str | None:
        """The service that a process belongs to, as this level says; None if to none."""
        try:
            (path,) = await self.client.call("GetServiceByPID", "u", pid)
        except RemoteError as e:
            if e.name != f"{BUS_NAME}.Error.NoSuchProcess":
                raise
            return None
        name: str = await self.client.get(path, f"{BUS_NAME}.Service", "Name")
        return name


def name_of(level: int) -> str:
    """The service that a level is to the one around it."""
    return f"org.activation.Test.Level{level}"


def add_leaf(place: Place, level: int) -> None:
    """A service that leaves an orphan, and is one itself where those are known."""
    options = "-l" if level == UNTAGGED else "-d -l"
    place.add(LEAF, f"{place.service} {options} {LEAF}")


@contextlib.asynccontextmanager
async def outermost(place: Place) -> AsyncIterator[tuple[Bus, Level]]:
    """The bus that the test starts."""
    async with place.serve() as bus:
        yield bus, Level(0, place, bus.client, bus.pid)


def prepare(place: Place, verb: str, levels: int) -> list[Place]:
    """Descriptors of brokers in brokers, each with a leaf; the place of each level."""
    places = [place]
    add_leaf(place, 0)
    for level in range(1, levels + 1):
        inner = Place(place.path / str(level), place.user, place.service, place.engine)
        for directory in (inner.path, inner.services):
            directory.mkdir(mode=0o755)
            if place.user.uid is not None:
                os.chown(directory, place.user.uid, place.user.uid)
        inner.fifo("address")
        add_leaf(inner, level)
        text = (SERVE if verb == "serve" else RUN).format(
            command=place.user.command,
            engine=place.engine,
            services=inner.services,
            path=inner.path,
            service=place.service,
            name=name_of(level),
        )
        script = inner.write("broker", text)
        places[-1].add(name_of(level), str(script))
        places.append(inner)
    return places


async def enter(outer: Level, place: Place, stack: contextlib.AsyncExitStack) -> Level:
    """Activate the broker that is a service of a level."""
    number = outer.number + 1
    address, _ = await asyncio.gather(line(place.path / "address"), outer.call(name_of(number)))
    client = await stack.enter_async_context(await Client.connect(address))
    (pid,) = await client.bus.call_bus("GetConnectionUnixProcessID", "s", [BUS_NAME])
    return Level(number, place, client, pid)


async def line(fifo: os.PathLike[str]) -> str:
    """The data that is written to a FIFO."""
    # Not blocking: whoever is to write may never come.
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(30):
            await readable.wait()
        return os.read(fd, 1000).decode().strip()
    finally:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)


def below(pid: int) -> list[int]:
    """Every process below one."""
    found = procfs.children_of(pid)
    for each in found:
        found += procfs.children_of(each)
    return found


async def test_each_level_knows_its_own_and_the_next_as_one_service(
    place: Place, verb: str
) -> None:
    places = prepare(place, verb, UNTAGGED)
    async with contextlib.AsyncExitStack() as stack:
        _, outer = await stack.enter_async_context(outermost(place))
        levels = [outer]
        for inner in places[1:]:
            levels.append(await enter(levels[-1], inner, stack))
        leaves: list[list[int]] = []
        for level in levels:
            await level.call(LEAF)
            leaves.append([each for each in below(level.pid) if is_leaf(each)])
            # Those of the levels below came later.
            assert len(leaves[-1]) >= 2
        for level in levels:
            for number, pids in enumerate(leaves):
                found = {await level.service_of(pid) for pid in pids}
                expected: set[str | None] = {LEAF}
                if number < level.number:
                    expected = {None}
                elif number > level.number:
                    expected = {name_of(level.number + 1)}
                if level.number == number == UNTAGGED:
                    # Where it can make no cgroup, the orphan is nobody's, but not another's.
                    found -= {None}
                assert found == expected, (level.number, number)
            assert set(await level.pids(LEAF)) <= set(leaves[level.number])
        for level in levels[:UNTAGGED]:
            records = (await level.client.snapshot()).processes.values()
            above = {pid for pids in leaves[: level.number] for pid in pids}
            assert not above & {each["PID"] for each in records}
            for each in records:
                assert each["Attribution"] in ("spawned", "tag"), each


def is_leaf(pid: int) -> bool:
    """Whether a process is, or was forked by, a leaf."""
    command = procfs.command(pid)
    return command[-1:] == (LEAF,) and procfs.alive(pid)


async def kill(pid: int) -> None:
    """SIGKILL, and wait until its children have been given to another."""
    fd = os.pidfd_open(pid)
    dead = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, dead.set)
    os.kill(pid, signal.SIGKILL)
    await dead.wait()
    asyncio.get_running_loop().remove_reader(fd)
    os.close(fd)


async def exits(bus: Bus, pids: Collection[int]) -> dict[int, tuple[str, str, str]]:
    """What is said of the ends of some processes, once all have ended."""
    found: dict[int, tuple[str, str, str]] = {}
    async for each in bus.signals():
        if each.member == "ProcessExited" and each.body[2] in pids:
            _, service, pid, _, _, details = each.body
            assert pid not in found, "it was told twice"
            found[pid] = (service, details["Origin"], details["Attribution"])
            if len(found) == len(pids):
                break
    return found


async def test_a_killed_brokers_processes_are_the_service_that_it_was(
    place: Place, verb: str
) -> None:
    places = prepare(place, verb, 2)
    async with contextlib.AsyncExitStack() as stack:
        bus, outer = await stack.enter_async_context(outermost(place))
        await outer.call(LEAF)
        own = await outer.pids(LEAF)
        one = await enter(outer, places[1], stack)
        await one.call(LEAF)
        two = await enter(one, places[2], stack)
        await two.call(LEAF)
        everything = await outer.pids(name_of(1))
        assert {one.pid, two.pid} < set(everything)
        orphans = procfs.children_of(one.pid)
        await kill(one.pid)
        # They come to the outer one, which is not told: it looks when it is asked.
        for pid in await outer.pids(name_of(1)):
            assert await outer.service_of(pid) in (name_of(1), None)
        ended = asyncio.create_task(exits(bus, orphans))
        await outer.client.call("StopService", "s", name_of(1))
        assert await ended == dict.fromkeys(orphans, (name_of(1), "adopted", "tag"))
        assert [pid for pid in everything if procfs.alive(pid)] == []
        assert await outer.pids(LEAF) == own
        await outer.call(LEAF)


async def test_stopping_a_broker_ends_all_levels_in_it(place: Place, verb: str) -> None:
    places = prepare(place, verb, 2)
    async with contextlib.AsyncExitStack() as stack:
        bus, outer = await stack.enter_async_context(outermost(place))
        one = await enter(outer, places[1], stack)
        two = await enter(one, places[2], stack)
        for level in (outer, one, two):
            await level.call(LEAF)
        own = await outer.pids(LEAF)
        everything = await outer.pids(name_of(1))
        await outer.client.call("StopService", "s", name_of(1))
        assert [pid for pid in everything if procfs.alive(pid)] == []
        assert await outer.pids(LEAF) == own
        # In its place there can be a new one.
        again = await enter(outer, places[1], stack)
        await again.call(LEAF)
        assert await bus.get(name_of(1), "SubState") == "running"
