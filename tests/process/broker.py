"""A broker in a scenario's process, and all that it says."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
import traceback
from typing import TYPE_CHECKING, Any, Self

from broker.process import kernel, signals
from broker.process.spawn import Program
from broker.process.supervisor import Supervisor
from tests.process.harness import WAIT, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.core.processes import Process


class Broker:
    """The supervisor as the daemon uses it, with everything that it says on record.

    An asynchronous context manager; when it ends, nothing that it started is left.
    """

    def __init__(self, *, subreaper: bool = True) -> None:
        signals.take_over(set())
        if subreaper:
            kernel.become_subreaper()
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._on_fault)
        self.events: list[Event] = []
        self.faults: list[str] = []
        self.turn = 0
        self.on_event: Callable[[Event], None] = lambda _: None
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(self.loop, self)
        self.supervisor.begin()
        self._signals = kernel.open_signalfd([signal.SIGCHLD])
        self.loop.add_reader(self._signals, self._on_signals)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        end = time.monotonic() + WAIT
        while self.supervisor.tree(None) and time.monotonic() < end:
            self.supervisor.signal(None, signal.SIGKILL)
            await self.supervisor.until(lambda: not len(self.supervisor.processes), 0.02)
        self.supervisor.close()
        self.loop.remove_reader(self._signals)
        os.close(self._signals)
        assert not self.faults, self.faults

    def _on_signals(self) -> None:
        kernel.read_signalfd(self._signals)
        self.supervisor.reap()

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        exception = context.get("exception")
        lines = traceback.format_exception(exception) if exception else [context["message"]]
        self.faults.append("".join(lines))
        self._changed.set()

    def spawn(
        self,
        argv: Sequence[str],
        service: str = "",
        fds: Mapping[int, int] | None = None,
        **options: Any,
    ) -> Process:
        """Start a program as a service, with nothing in its environment."""
        program = Program(argv=argv, name=service, environ={}, fds=fds or {}, **options)
        return self.supervisor.spawn(program, service)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until something is so, looked at after each event."""
        try:
            async with asyncio.timeout(WAIT):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            last = [
                (each.kind, each.service, each.pid, each.code, each.status)
                for each in self.events[-20:]
            ]
            raise AssertionError(f"it never came, after {last}, {self.faults}") from None

    async def all_emptied(self, count: int) -> None:
        """Until the last process of this number of activations has ended."""
        await self.wait(lambda: len(self.of_kind("emptied")) >= count)

    async def receive(self, fd: int, enough: Callable[[bytes], bool]) -> bytes:
        """What children have written to a pipe."""
        os.set_blocking(fd, False)
        data = b""
        async with asyncio.timeout(WAIT):
            while not enough(data):
                readable = asyncio.Event()
                self.loop.add_reader(fd, readable.set)
                await readable.wait()
                self.loop.remove_reader(fd)
                chunk = os.read(fd, 1 << 16)
                assert chunk, (data, "is all that came")
                data += chunk
        return data

    async def at_end(self, fd: int) -> None:
        """Until no process is left that could write to a pipe."""
        ended = asyncio.Event()
        self.loop.add_reader(fd, ended.set)
        async with asyncio.timeout(WAIT):
            await ended.wait()
        self.loop.remove_reader(fd)
        assert os.read(fd, 1) == b""

    async def next_turn(self) -> None:
        """Until what the loop had to do is done."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def count_turns(self) -> None:
        """Number the turns of the loop from now on; it does not rest any more."""

        def count() -> None:
            self.turn += 1
            self.loop.call_soon(count)

        count()

    def of_kind(self, kind: str) -> list[Event]:
        """The events so far of one kind."""
        return [each for each in self.events if each.kind == kind]

    def exits(self, service: str) -> list[Event]:
        """The exits so far of a service."""
        return [each for each in self.of_kind("exited") if each.service == service]

    def answer(self) -> list[dict[str, Any]]:
        """The events, for JSON."""
        return [dataclasses.asdict(each) for each in self.events]

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()
        self.on_event(event)

    def _add_process(self, kind: str, process: Process) -> None:
        self._add(
            Event(
                kind,
                self.turn,
                service=process.service,
                activation=process.activation,
                pid=process.pid,
                ppid=process.ppid,
                origin=process.origin,
                attribution=process.attribution,
                command=process.command,
                code=process.exit.code,
                status=process.exit.status,
                user=process.usage.user,
                system=process.usage.system,
                max_rss=process.usage.max_rss,
                started=process.started.monotonic,
                exited=process.exited.monotonic,
            )
        )

    def process_started(self, process: Process) -> None:
        """Of ``ProcessEvents``."""
        self._add_process("started", process)

    def process_exited(self, process: Process, forgotten: Process | None) -> None:
        """Of ``ProcessEvents``."""
        del forgotten
        self._add_process("exited", process)

    def activation_emptied(self, activation: int, service: str) -> None:
        """Of ``ProcessEvents``."""
        self._add(Event("emptied", self.turn, service, activation))
