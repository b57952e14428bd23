"""Runs a command inside a bus of its own, as dbus-run-session does, and ends it all."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.errors import EngineFailed
from broker.process import kernel, signals
from broker.process.spawn import Program, SpawnRefusedError, close_on_exec
from broker.session import report
from broker.session.daemon import Daemon
from broker.session.passing import FORWARDED, Passing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.core.exits import Exit
    from broker.core.processes import Process
    from broker.services.leaks import Leak
    from broker.session.config import Config

# Between two looks at possible leaks during the grace, in seconds.
LOOK: Final = 0.1
# Variables of the bus on which we were started; dbus-run-session drops the same.
_DROPPED: Final = {
    "DBUS_SESSION_BUS_PID",
    "DBUS_SESSION_BUS_WINDOWID",
    "DBUS_STARTER_ADDRESS",
    "DBUS_STARTER_BUS_TYPE",
}


@dataclass(frozen=True, slots=True)
class SessionResult:
    """The result of a session: the command's exit, its leaks, and a report.

    Attributes:
        report: the services and processes, as in ``broker.session.report``.
    """

    exit: Exit
    leaks: Sequence[Leak]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """The leaks of a command that are tolerated.

    Attributes:
        grace: how long a process may outlive the command, in seconds.
        ignored: patterns of programs (``Leak.matches``).
    """

    grace: float = 0.0
    ignored: Sequence[str] = ()


def run(config: Config, argv: Sequence[str], patience: Patience) -> SessionResult:
    """Run a command in a session; no process of it is left when this returns.

    Raises:
        Fault: the bus did not start, or ended before the command.
        SpawnRefusedError: the command cannot be started.
    """
    inherited = signals.take_over(FORWARDED)
    kernel.check()
    session = _Session(config, argv, inherited.mask, close_on_exec(), patience)
    return asyncio.run(session.run())


def _one_has_ended(processes: Sequence[Process]) -> bool:
    return not all(each.running for each in processes)


class _Session:
    def __init__(
        self,
        config: Config,
        argv: Sequence[str],
        mask: frozenset[int],
        fds: list[int],
        patience: Patience,
    ) -> None:
        self._config = config
        self._argv = argv
        self._mask = mask
        self._fds = fds
        self._patience = patience

    async def run(self) -> SessionResult:
        async with Daemon.open(self._config) as self._daemon:
            supervisor, stop_timeout = self._daemon.supervisor, self._config.limits.stop_timeout
            with closing(Passing(supervisor, stop_timeout)) as signals:
                if await self._start(signals):
                    return await self._run_command(signals)
                return self._ended(signals.ended.result(), ())

    async def _start(self, signals: Passing) -> bool:
        """Start the bus; False if a signal came first."""
        starting = asyncio.create_task(self._daemon.start())
        try:
            await _first(starting, signals.ended)
            if not signals.ended.done():
                await starting
            return not signals.ended.done()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _run_command(self, signals: Passing) -> SessionResult:
        daemon = self._daemon
        loop = asyncio.get_running_loop()
        refused: asyncio.Future[SpawnRefusedError] = loop.create_future()
        process = self._spawn(refused.set_result)
        signals.command = process
        command = loop.create_task(daemon.supervisor.until(lambda: not process.running, None))
        bus = loop.create_task(daemon.wait())
        await _first(command, bus, refused, signals.ended)
        if refused.done():
            raise refused.result()
        if process.running and not signals.ended.done():
            command.cancel()
            await bus
            raise EngineFailed("the session was ended by a call of Exit")
        bus.cancel()
        command.cancel()
        if process.running:
            return self._ended(signals.ended.result(), ())  # it still runs: no leaks yet
            # This also handles all news of names: a service that took its name is not starting.
        return self._ended(process.exit, await self._leaks(self._patience, signals.hurried))

    def _ended(self, exit_: Exit, left: Sequence[Leak]) -> SessionResult:
        daemon = self._daemon
        about = report.of_session(daemon.units.values(), daemon.supervisor.processes)
        return SessionResult(exit_, left, about)

    async def _leaks(self, patience: Patience, hurried: asyncio.Event) -> Sequence[Leak]:
        """The leaks after the grace period, or at the time when a signal cuts it short."""
        supervisor = self._daemon.supervisor
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience.grace
        while True:
            found = await self._daemon.leaks()
            found = [each for each in found if not each.matches(patience.ignored)]
            left = deadline - loop.time()
            if not found or left <= 0 or hurried.is_set():
                return found
            # The end of one may be the end of all. (A process that is not our child ends
            # unnoticed, as one that is to be ignored executes its program: hence LOOK.)
            own = [process for each in found if (process := supervisor.processes.get(each.pid))]
            ends = {
                loop.create_task(supervisor.until(partial(_one_has_ended, own), min(left, LOOK))),
                loop.create_task(hurried.wait()),
            }
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()

    def _spawn(self, on_refused: Callable[[SpawnRefusedError], None]) -> Process:
        environ = {k: v for k, v in self._config.environ.items() if k not in _DROPPED}
        # Set the session bus's variable for a system bus, too: the command must find its bus.
        for kind in ("session", self._config.rules.kind):
            environ[f"DBUS_{kind.upper()}_BUS_ADDRESS"] = self._daemon.bus_address
        program = Program(
            argv=self._argv,
            name=self._argv[0],
            environ=environ,
            search=True,
            null_stdin=False,
            session=False,
            mask=self._mask,
            reset_signals=False,
        )
        # Descriptors that we inherited beyond the standard streams are meant for the command.
        for fd in self._fds:
            os.set_inheritable(fd, True)
        try:
            return self._daemon.supervisor.spawn(program, on_refused=on_refused)
        finally:
            for fd in self._fds:
                os.set_inheritable(fd, False)


async def _first(*ends: asyncio.Future[Any]) -> None:
    """Return when the first of them is done."""
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
