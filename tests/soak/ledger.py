"""Holds the broker's signals against each other, and against what it says when asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from broker.bus.codec import Message
from broker.errors import DBusError
from tests.aio_client import BUS_NAME, MANAGER, PROCESS, ROOT, Client, Signal, plain
from tests.integration.mirror import Mirror, objects_in
from tests.soak.record import ANSWER_BOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.soak.record import Record

ONCE: Final = "each process starts once and ends once"
COUNTS: Final = "NReaped and NProcesses are what was signalled"
ANNOUNCED: Final = "properties are what was announced"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"
# By path, interface and property.
Objects: TypeAlias = dict[str, dict[str, dict[str, Any]]]


class Ledger:
    """A client that listens from the beginning on.

    Attributes:
        started, exited: processes that were said to have.
        activations: how long they took, in microseconds, as the broker says.
    """

    def __init__(self, client: Client, record: Record) -> None:
        self._client = client
        self._record = record
        self._mirror = Mirror()
        self._live: dict[str, int] = {}
        self._serial = 0
        self._reaped = 0
        self.started = 0
        self.exited = 0
        self.activations: list[int] = []

    async def begin(self) -> None:
        """Read the present state; nothing may happen meanwhile."""
        await self._client.subscribe(self._on_signal)
        snapshot = await self._client.snapshot()
        for path, values in snapshot.processes.items():
            self._serial = max(self._serial, _serial(path))
            if values["State"] == "running":
                self._live[path] = values["PID"]
        manager = await self._ask(ROOT, PROPERTIES, "GetAll", [MANAGER])
        self._mirror.objects = {**objects_in(snapshot), ROOT: {MANAGER: manager}}
        self._reaped = manager["NReaped"]

    def _on_signal(self, signal: Signal) -> None:
        try:
            self._mirror.on_signal(signal)
        except (AssertionError, KeyError) as e:
            self._record.check(ANNOUNCED, f"{signal} contradicts the ones before: {e!r}")
        if signal.member == "ProcessStarted":
            self._on_started(*signal.body)
        elif signal.member == "ProcessExited":
            self._on_exited(*signal.body)
        elif signal.member == "PropertiesChanged" and "ActivationUSec" in signal.body[1]:
            self.activations.append(signal.body[1]["ActivationUSec"])

    def _on_started(self, path: str, service: str, pid: int, _ppid: int, origin: str) -> None:
        self.started += 1
        about = f"{path}, PID {pid} of {service!r}, {origin}"
        if _serial(path) <= self._serial:
            self._record.check(ONCE, f"{about}: started after {self._serial}")
        if pid in self._live.values():
            self._record.check(ONCE, f"{about}: another one with its PID has not ended")
        self._serial = max(self._serial, _serial(path))
        self._live[path] = pid

    def _on_exited(self, path: str, service: str, pid: int, *_: Any) -> None:
        self.exited += 1
        if self._live.pop(path, None) != pid:
            self._record.check(ONCE, f"{path}, PID {pid} of {service!r}: ended, never started")

    async def compare(self) -> Objects:
        """Hold all that was signalled against what the broker says when asked.

        Exact at any moment, without a pause: the bus keeps the order, so when an answer
        comes, all that was announced before it was given is here, and nothing else.
        """
        await self._ask(ROOT, PROPERTIES, "GetAll", [MANAGER], self._compare_counts)
        objects: Objects = await self._ask(
            ROOT, OBJECTS, "GetManagedObjects", [], self._compare_objects
        )
        return objects

    def _compare_counts(self, manager: dict[str, Any]) -> None:
        record = self._record
        record.sound(COUNTS, "NReaped", manager["NReaped"], self._reaped + self.exited)
        record.sound(COUNTS, "NProcesses", manager["NProcesses"], len(self._live))
        for name in ("NServices", "NProcesses"):
            told = self._mirror.objects[ROOT][MANAGER][name]
            record.sound(ANNOUNCED, name, manager[name], told)

    def _compare_objects(self, truth: Objects) -> None:
        self._record.check(ANNOUNCED, *self._mirror.differences(truth))
        running = {
            path
            for path, each in truth.items()
            if PROCESS in each and each[PROCESS]["State"] == "running"
        }
        odd = sorted(running ^ self._live.keys())
        self._record.check(ONCE, *[f"{path} runs, or was said to, but not both" for path in odd])

    async def _ask(
        self,
        path: str,
        interface: str,
        member: str,
        body: list[str],
        on_answer: Callable[[Any], None] = lambda _: None,
    ) -> Any:
        """Ask, and look at the answer before anything that comes behind it."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Message | DBusError) -> None:
            if isinstance(reply, DBusError):
                done.set_exception(reply)
            else:
                (answer,) = plain(reply.body)
                on_answer(answer)
                done.set_result(answer)

        call = Message(BUS_NAME, path, interface, member, signature="s" * len(body), body=body)
        self._client.bus.request(call, on_reply)
        async with asyncio.timeout(ANSWER_BOUND):
            return await done


def _serial(path: str) -> int:
    return int(path.rpartition("/")[2])
