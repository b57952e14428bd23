"""Tens of thousands of orphans: each is reported once, then forgotten; others are served.

All of them come from one service, which lives on. PIDs are shared with whatever
else runs on the machine, so no more than ``ALIVE`` are there at a time, alive or
waiting to be reaped: a burst of 20,000 is three, each of them released at once.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from broker.core.exits import CLD_EXITED
from tests.aio_client import MANAGER, PROCESS, ROOT
from tests.bench.buses import resident
from tests.integration.buses import TEST, open_fifo, standing_still
from tests.integration.pairs import on_one

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.buses import Bus, Place

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240, func_only=True)]

STORM = "org.activation.Test.Storm"
OTHERS = [f"org.activation.Test.Other{number}" for number in range(10)]
COUNT = 20_000
ALIVE = 7000
# Before and after: enough that records, queues and buffers have had their size.
FEWER = 2000
# What memory may differ by, and how long an activation may take in a storm.
RATIO = 1.1
SECONDS = 1.0
# What the broker may hold for a bus that stands still.
HELD = 24 << 20


@dataclass(slots=True)
class Heard:
    """What a listener heard of the storm's orphans, held to what must be so.

    Attributes:
        exited: their PIDs, in order.
        marks: how they were matched to the service.
        objects: those of processes, as ObjectManager tells of them.
        announced: how many of them there have been.
    """

    exited: list[int] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    announced: int = 0
    _newest: int = 0
    _running: dict[int, str] = field(default_factory=dict)

    def take(self, member: str, body: list[Any]) -> None:
        """A signal: each object starts, then exits with its own code, and has a PID to itself."""
        if member == "ProcessStarted" and body[1::3] == [STORM, "adopted"]:
            path, _service, pid, _ppid, _origin = body
            serial = int(path.rpartition("/")[2])
            assert serial > self._newest
            assert pid not in self._running
            self._newest = serial
            self._running[pid] = path
        elif member == "ProcessExited" and body[1] == STORM:
            path, _service, pid, code, status, details = body
            assert self._running.pop(pid) == path
            assert (code, status) == (CLD_EXITED, pid % 250)
            self.exited.append(pid)
            self.marks.add(details["Attribution"])
        elif member == "InterfacesAdded" and PROCESS in body[1]:
            self.objects.add(body[0])
            self.announced += 1
        elif member == "InterfacesRemoved":
            self.objects.remove(body[0])


async def storm(bus: Bus, program: Path, mode: str, count: int) -> list[int]:
    """Have the service make orphans; their PIDs, when the last one was reaped."""
    made = bus.place.path / "made"
    made.unlink(missing_ok=True)
    await run(bus, f"{program} {mode} {count} {ALIVE} {bus.pid} {made} >/dev/null")
    return array("i", made.read_bytes()).tolist()


async def run(bus: Bus, command: str) -> None:
    """Have the service run a command, however long that takes."""
    answer = await bus.client.bus.call(STORM, "/", TEST, "Run", "s", [command], timeout=None)
    assert answer == [0]


async def activate(bus: Bus) -> float:
    """The median of ten activations, one after the other, in seconds."""
    clock = asyncio.get_running_loop().time
    taken = []
    for name in OTHERS:
        start = clock()
        await bus.call(name, "Echo", "s", name)
        taken.append(clock() - start)
    return statistics.median(taken)


async def manager(bus: Bus, name: str) -> Any:
    """A property of the Manager's."""
    return await bus.client.get(ROOT, MANAGER, name)


@on_one()
@pytest.mark.parametrize("mode", ["stream", "burst"])
async def test_a_storm_of_orphans(place: Place, storm_program: Path, mode: str) -> None:
    count = COUNT if place.user.uid is None else COUNT // 2
    for name in (STORM, *OTHERS):
        place.add(name)
    async with place.serve() as bus:
        await bus.echo(STORM)
        reaped = await manager(bus, "NReaped")
        heard = Heard(objects=set((await bus.client.snapshot()).processes))
        warm_up = await storm(bus, storm_program, mode, FEWER)
        memory = [resident(bus.pid)]

        storming = asyncio.create_task(storm(bus, storm_program, mode, count))
        median = await activate(bus)
        figures = f"median of ten activations {median * 1000:.0f} ms"
        assert not storming.done()
        assert median <= SECONDS, figures
        made = await storming
        memory.append(resident(bus.pid))
        again = await storm(bus, storm_program, mode, FEWER)
        memory.append(resident(bus.pid))

        expected = warm_up + made + again
        objects = None
        async for each in bus.signals():
            heard.take(each.member, each.body)
            if len(heard.exited) == len(expected):
                # All that is there now was told before this answer.
                objects = objects or set((await bus.client.snapshot()).processes)
                if heard.objects == objects:
                    break
        assert await manager(bus, "NReaped") == reaped + len(expected)
        # A PID is there as often as it was given out.
        assert sorted(heard.exited) == sorted(expected)
        assert heard.marks <= {"cgroup", "tag"}
        # What came and went within a moment was no news for those who look at objects.
        assert heard.announced < len(expected) / 2
        assert await manager(bus, "NSignalsDropped") == 0
        figures += f", resident {[each >> 10 for each in memory]} kB"
        print(f"{place.engine}, {mode} of {count}: {figures}")  # noqa: T201 - to be seen with -s
        assert max(memory) <= RATIO * min(memory), figures


@pytest.fixture
def deaf() -> Iterator[list[subprocess.Popen[str]]]:
    """For listeners that have stopped: they are ended when the test is."""
    listeners: list[subprocess.Popen[str]] = []
    yield listeners
    for each in listeners:
        each.kill()
        each.communicate()


@on_one("dbus-daemon")
async def test_a_listener_that_never_reads_costs_the_broker_nothing(
    place: Place, storm_program: Path, deaf: list[subprocess.Popen[str]]
) -> None:
    for name in (STORM, *OTHERS):
        place.add(name)
    async with place.serve() as bus:
        await bus.echo(STORM)
        await storm(bus, storm_program, "stream", FEWER)
        before = resident(bus.pid)
        monitor = ["gdbus", "monitor", f"--address={bus.address}", "--dest=org.activation.Broker1"]
        deaf.append(place.user.popen(monitor, stdout=subprocess.PIPE, text=True))
        assert deaf[0].stdout is not None
        for said in ("Monitoring signals", "The name org.activation.Broker1 is owned"):
            assert said in await asyncio.to_thread(deaf[0].stdout.readline)
        deaf[0].send_signal(signal.SIGSTOP)

        storming = asyncio.create_task(storm(bus, storm_program, "stream", COUNT // 4))
        median = await activate(bus)
        await storming
        after = resident(bus.pid)
        memory = [before >> 10, after >> 10]
        figures = f"median {median * 1000:.0f} ms, resident {memory} kB"
        print(f"{place.engine}: {figures}")  # noqa: T201
        assert await manager(bus, "NSignalsDropped") == 0
        assert median <= SECONDS, figures
        assert after <= RATIO * before, figures


@on_one()
async def test_what_the_bus_does_not_take_is_dropped_and_counted(
    place: Place, storm_program: Path
) -> None:
    """The engine stands still while more happens than the broker holds for it."""
    place.add(STORM)
    begin, end = place.fifo("begin"), place.fifo("end")
    made = place.path / "made"
    async with place.serve() as bus:
        await bus.echo(STORM)
        await storm(bus, storm_program, "stream", FEWER)
        made.unlink()
        before = resident(bus.pid)
        command = f"{storm_program} stream {COUNT} {ALIVE} {bus.pid} {made}"
        storming = asyncio.create_task(run(bus, f"read _ <{begin}; {command} >{end}"))
        go = await open_fifo(begin, "w")
        with standing_still(bus.engine):
            with go:
                go.write("\n")
            with await open_fifo(end, "r") as ended:
                await asyncio.to_thread(ended.read)
            peak = resident(bus.pid)
        await storming
        dropped = await manager(bus, "NSignalsDropped")
        print(f"{place.engine}: {dropped} dropped, {before >> 10} kB, then {peak >> 10} kB")  # noqa: T201
        assert dropped > 0
        assert peak < before + HELD
        # Each of them was told or is counted, and none twice.
        told = []
        pids = []
        async for each in bus.signals():
            if each.member in ("ProcessStarted", "ProcessExited") and each.body[1] == STORM:
                told.append((each.member, each.body[0]))
                pids.append(each.body[2])
            if len(told) + dropped == 1 + 2 * (FEWER + COUNT):
                break
        assert len(set(told)) == len(told)
        # The oldest are gone, not the newest.
        newest = array("i", made.read_bytes())[-1]
        assert newest in pids[-100:]
        await bus.client.call("Exit")
        assert "the bus is too slow for our signals" in await bus.ended()
