"""One soak of one broker: rounds of actions, each followed by a look at everything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.errors import Disconnected, RemoteError
from broker.process import procfs
from tests.aio_client import SERVICE, Client
from tests.soak import probes
from tests.soak.actions import Actor
from tests.soak.attacks import Attacks
from tests.soak.ledger import Ledger, Objects
from tests.soak.probes import MatchRules, Memory
from tests.soak.record import ANSWER_BOUND, Record
from tests.soak.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Bus, Place

CLIENTS: Final = 8
ROUND: Final = 150
# Seconds between two looks at memory.
SAMPLE: Final = 1.0
# In seconds. An activation that never gets its name is over soon, so that a round is;
# together and with the engine's patience they are less than the bound of an answer.
OPTIONS: Final = ("--activation-timeout=2", "--handover-timeout=0.5", "--stop-timeout=0.5")
# Of ended processes for each service, and for those that belong to none.
HISTORY: Final = 16
IDLE: Final = {"dead", "failed"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and what is flat.

    Attributes:
        seconds: of rounds; what comes before and after is not in them.
        warm_up: seconds until memory is looked at.
        growth: the most that memory may grow from the first fifth of its samples after
            the warm-up to the last: medians, since a flood is felt for a moment.
        floods: whether there are floods of names and of calls, see ``Attacks``.
    """

    seconds: float
    warm_up: float
    growth: float
    seed: int
    floods: bool = True


@dataclass(frozen=True, slots=True)
class _Resources:
    """What must be the same before and after."""

    broker_descriptors: int
    engine_descriptors: int
    match_rules: int | None
    limits: list[str]
    service_limits: list[str]
    cgroups: int


class Soak:
    """A running broker under load.

    Attributes:
        record: what happened.
        broker, engine: memory of the two processes.
    """

    def __init__(self, place: Place, plan: Plan) -> None:
        self.record = Record()
        self.broker = Memory(plan.warm_up)
        self.engine = Memory(plan.warm_up)
        self.ledger: Ledger
        self.rules: MatchRules
        self.rounds = 0
        self.seconds = 0.0
        self._place = place
        self._plan = plan
        self._services = Services(place)
        self._stay: set[str] = set()

    async def run(self) -> None:
        """From the start of the broker to its end; what is wrong goes to the record."""
        check = "the broker lives to the end"
        self.record.check(check)
        async with self._place.serve(*OPTIONS) as bus:
            try:
                await self._run(bus)
            except Disconnected as e:
                self.record.check(check, str(e))
            finally:
                if bus.status is None:
                    bus.kill(signal.SIGTERM)
                self.record.check("nothing fails in the broker", *_complaints(await bus.ended()))

    async def _run(self, bus: Bus) -> None:
        self._engine_pid = _engine(bus)
        self.rules = await MatchRules.watch(bus.client, bus.address, bus.pid)
        self.ledger = Ledger(bus.client, self.record)
        await self.ledger.begin()
        (names,) = await bus.client.bus.call_bus("ListNames")
        self._stay = set(names)
        await self._warm_up(bus)
        before = await self._resources(bus)
        await self._rounds(bus)
        await self._settle(bus)
        # A name that was flipped is followed again a second after that.
        async with self.record.action("the last match rule"):
            while self.rules.net:
                await bus.client.bus.call_bus("GetId")
        after = await self._resources(bus)
        self._compare(before, after)
        self.rules.close()
        await self._end(bus)

    # -- the load --------------------------------------------------------------

    async def _warm_up(self, bus: Bus) -> None:
        """Every service once: whatever is made on first use is there then."""
        chance = random.Random(0)  # noqa: S311 - see _actor
        self._attacks = Attacks(bus, floods=self._plan.floods)
        actor = Actor(bus.address, bus.client, self._services, Record(), chance, self._attacks)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(actor.close)
            await asyncio.gather(*(_try_start(bus.client, name) for name in self._services.names))
            await actor.environment()
            await actor.flood()
        await self._settle(bus)

    async def _rounds(self, bus: Bus) -> None:
        done = asyncio.Event()
        sampler = asyncio.create_task(self._sample(bus, done))
        try:
            async with AsyncExitStack() as stack:
                actors = [await self._actor(bus, stack, number) for number in range(CLIENTS)]
                while self.seconds < self._plan.seconds:
                    turns = iter(range(ROUND))
                    await asyncio.gather(*(_take_turns(actor, turns) for actor in actors))
                    self.rounds += 1
                    await self._check_owners(bus, await self.ledger.compare())
        finally:
            done.set()
            await sampler

    async def _actor(self, bus: Bus, stack: AsyncExitStack, number: int) -> Actor:
        client = await stack.enter_async_context(await Client.connect(bus.address))
        chance = random.Random(f"{self._plan.seed}/{number}")  # noqa: S311 - to be repeated
        actor = Actor(bus.address, client, self._services, self.record, chance, self._attacks)
        stack.push_async_callback(actor.close)
        return actor

    async def _sample(self, bus: Bus, done: asyncio.Event) -> None:
        begin = time.monotonic()
        while not done.is_set():
            self.seconds = time.monotonic() - begin
            self.broker.samples.append((self.seconds, probes.resident(bus.pid)))
            self.engine.samples.append((self.seconds, probes.resident(self._engine_pid)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE):
                    await done.wait()

    # -- what must be so -------------------------------------------------------

    async def _check_owners(self, bus: Bus, objects: Objects) -> None:
        """The broker knows who owns what; it may hear of it a moment later than we."""
        paths = {each[SERVICE]["Name"]: path for path, each in objects.items() if SERVICE in each}
        deadline = time.monotonic() + ANSWER_BOUND
        wrong = list(paths)
        while wrong and time.monotonic() < deadline:
            wrong = [name for name in wrong if await self._owner_differs(bus, name, paths[name])]
        self.record.check("Owner is who owns the name", *wrong)

    async def _owner_differs(self, bus: Bus, name: str, path: str) -> bool:
        owner = ""
        with contextlib.suppress(RemoteError):
            (owner,) = await bus.client.bus.call_bus("GetNameOwner", "s", [name])
        try:
            return bool(await bus.client.get(path, SERVICE, "Owner") != owner)
        except RemoteError:
            return False  # its descriptor had gone, and now the last of its processes

    async def _settle(self, bus: Bus) -> None:
        """Stop everything, and have every client but ours gone."""
        self._services.restore()
        await bus.client.call("Reload")
        for path, each in (await self.ledger.compare()).items():
            if SERVICE in each:
                name = each[SERVICE]["Name"]
                async with self.record.action("last stop", path):
                    await bus.client.call("StopService", "s", name)
        async with self.record.action("the last client's leave"):
            while True:
                (names,) = await bus.client.bus.call_bus("ListNames")
                if not [each for each in names if each[0] == ":" and each not in self._stay]:
                    break
        await bus.client.call("ResetFailed", "s", "")
        objects = await self.ledger.compare()
        await self._check_owners(bus, objects)
        self._check_idle(objects)
        await self._check_tree(bus)

    def _check_idle(self, objects: Objects) -> None:
        services = [each[SERVICE] for each in objects.values() if SERVICE in each]
        for each in services:
            about = each["SubState"], each["Owner"], each["PIDs"], each["MainPID"]
            self.record.sound("services are idle", each["Name"], about, ("dead", "", [], 0))
        names = {each["Name"] for each in services}
        self.record.sound(
            "services are those on disk", "", names ^ set(self._services.names), set()
        )
        ended: dict[str, int] = {}
        for each in objects.values():
            for process in (values for name, values in each.items() if name != SERVICE):
                if process["State"] == "exited":
                    ended[process["ServiceName"]] = ended.get(process["ServiceName"], 0) + 1
        many = [f"{name!r}: {count}" for name, count in ended.items() if count > HISTORY]
        self.record.check("16 ended processes are kept of each service", *many)
        gone = [f"{name!r}" for name in ended if name not in {"", *names}]
        self.record.check("nothing is kept of services that are gone", *gone)

    async def _check_tree(self, bus: Bus) -> None:
        left = probes.leaked(bus.pid, bus.tree())
        self.record.check("no process is left", *left)

    async def _resources(self, bus: Bus) -> _Resources:
        name = self._services.names[0]
        await bus.echo(name)
        service_limits = probes.limits(await bus.get(name, "MainPID"))
        await bus.client.call("StopService", "s", name)
        # The bus has closed what was the service's when it says that its name has gone.
        await bus.state(name, *IDLE)
        return _Resources(
            probes.descriptors(bus.pid),
            probes.descriptors(self._engine_pid),
            await self.rules.asked(bus.client),
            probes.limits(bus.pid),
            service_limits,
            len(probes.cgroups(bus.pid)),
        )

    def _compare(self, before: _Resources, after: _Resources) -> None:
        for check, name in (
            ("no descriptor is left in the broker", "broker_descriptors"),
            ("no descriptor is left in the engine", "engine_descriptors"),
            ("no match rule is left", "match_rules"),
            ("the broker's limits are as before", "limits"),
            ("a service's limits are as before", "service_limits"),
            ("no cgroup is left", "cgroups"),
        ):
            self.record.sound(check, name, getattr(after, name), getattr(before, name))
        self.record.sound("no match rule is left", "AddMatch - RemoveMatch", self.rules.net, 0)
        first, last = self.broker.levels()
        allowed = first * self._plan.growth
        self.record.check(
            "the broker's memory is flat",
            *([] if last <= allowed else [f"{first / 1e6:.1f} MB became {last / 1e6:.1f}"]),
        )

    async def _end(self, bus: Bus) -> None:
        """SIGTERM, with something to end."""
        await asyncio.gather(*(_try_start(bus.client, name) for name in self._services.names))
        tree = bus.tree()
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        left = [pid for pid in tree if procfs.alive(pid)]
        check = "after SIGTERM nothing is left"
        self.record.sound(check, "exit status", bus.status, 0)
        self.record.sound(check, "processes", left, [])
        self.record.sound(check, "cgroups", probes.cgroups(bus.pid), [])
        files = {each.name for each in self._place.path.iterdir()}
        known = {"services", "stubborn", "storm", "sparks"}
        self.record.sound(check, "files", files - known, set())
        self.record.check("nothing fails in the broker", *_complaints(said))


def _complaints(said: str) -> list[str]:
    """What must not be in the log, with what comes behind it."""
    for word in ("Traceback", "fault:", "refuses", "cannot be ended", "Task exception"):
        if word in said:
            return [said[max(0, said.index(word) - 200) :][:2000]]
    return []


async def _take_turns(actor: Actor, turns: Iterator[int]) -> None:
    for _ in turns:
        await actor.act()


async def _try_start(client: Client, name: str) -> None:
    with contextlib.suppress(RemoteError):
        await client.call("StartService", "s", name)


def _engine(bus: Bus) -> int:
    (pid,) = (pid for pid in bus.tree() if procfs.command(pid)[0].endswith(bus.place.engine))
    return pid
