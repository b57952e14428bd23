"""A command inside a bus of its own: what dbus-run-session does, and the end of it."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker import report
from broker.core.exits import CLD_KILLED, Exit
from broker.daemon import Daemon
from broker.errors import EngineFailed
from broker.process import kernel, signals
from broker.process.spawn import Program, SpawnRefusedError, close_on_exec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.config import Config
    from broker.core.processes import Process
    from broker.leaks import Leak

# What people and supervisors send to a command to make it do something. SIGTSTP
# and SIGCONT are left alone: the terminal's job control is for both of us.
FORWARDED: Final = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
# Variables of the bus that we were started on; dbus-run-session drops the same.
_DROPPED: Final = {
    "DBUS_SESSION_BUS_PID",
    "DBUS_SESSION_BUS_WINDOWID",
    "DBUS_STARTER_ADDRESS",
    "DBUS_STARTER_BUS_TYPE",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: the command's exit, what outlived it, and what it was like then.

    Attributes:
        report: the services and processes, as in ``broker.report``.
    """

    exit: Exit
    leaks: Sequence[Leak]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """What is let pass of what outlives the command.

    Attributes:
        grace: seconds for what is about to end.
        ignored: patterns of programs (``Leak.matches``).
    """

    grace: float = 0.0
    ignored: Sequence[str] = ()


def run(config: Config, argv: Sequence[str], patience: Patience) -> Ended:
    """Run a command in a session; when this returns, nothing of it is left.

    Raises:
        Fault: the bus did not start, or ended before the command did.
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
        self._hurried = asyncio.Event()

    async def run(self) -> Ended:
        self._daemon = Daemon(self._config)
        try:
            await self._daemon.start()
            return await self._run_command()
        finally:
            await self._daemon.stop()

    async def _run_command(self) -> Ended:
        daemon = self._daemon
        loop = asyncio.get_running_loop()
        # How it ended before it was a command at all.
        never: asyncio.Future[Exit | SpawnRefusedError] = loop.create_future()

        def on_never(how: Exit | SpawnRefusedError) -> None:
            if not never.done():
                never.set_result(how)

        process = self._spawn(on_never)
        fd = kernel.open_signalfd(FORWARDED)

        def on_signal() -> None:
            for number, code in kernel.read_signalfd(fd):
                if not process.running:
                    self._hurried.set()
                # SI_USER and its kind are 0 and below: somebody sent it to us alone.
                # What the terminal sends goes to its whole foreground group, and
                # the command has had it.
                if code <= 0:
                    daemon.supervisor.signal_process(process.pid, number)
                # On a disk that does not answer it may sleep where no signal wakes it.
                ignored = signal.getsignal(number) is signal.SIG_IGN
                if daemon.supervisor.is_starting(process.pid) and not ignored:
                    on_never(Exit(CLD_KILLED, number))

        loop.add_reader(fd, on_signal)
        command = loop.create_task(daemon.supervisor.until(lambda: not process.running, None))
        bus = loop.create_task(daemon.wait())
        try:
            ends: set[asyncio.Future[Any]] = {command, bus, never}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            ended = never.result() if never.done() else process.exit
            if isinstance(ended, SpawnRefusedError):
                raise ended
            if process.running and not never.done():
                command.cancel()
                await bus
                raise EngineFailed("the session was ended by a call of Exit")
            bus.cancel()
            command.cancel()
            # This also brings all news of names: a service that has served is not starting.
            left = await self._leaks(self._patience)
            about = report.of_session(daemon.units.values(), daemon.supervisor.processes)
            return Ended(ended, left, about)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def _leaks(self, patience: Patience) -> Sequence[Leak]:
        """What outlives the command by the grace, or until somebody sends us a signal."""
        supervisor = self._daemon.supervisor
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience.grace
        while True:
            found = await self._daemon.leaks()
            found = [each for each in found if not each.matches(patience.ignored)]
            left = deadline - loop.time()
            if not found or left <= 0 or self._hurried.is_set():
                return found
            # One of them may end the wait for all others. (What is not our own child ends
            # without a word: it is looked for again at the deadline.)
            own = [process for each in found if (process := supervisor.processes.get(each.pid))]
            ends = {
                loop.create_task(supervisor.until(partial(_one_has_ended, own), left)),
                loop.create_task(self._hurried.wait()),
            }
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()

    def _spawn(self, on_refused: Callable[[SpawnRefusedError], None]) -> Process:
        environ = {k: v for k, v in self._config.environ.items() if k not in _DROPPED}
        # The session's, of whatever type it is: the command is told where its bus is.
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
        # What we were given beyond the standard streams was meant for the command.
        for fd in self._fds:
            os.set_inheritable(fd, True)
        try:
            return self._daemon.supervisor.spawn(program, on_refused=on_refused)
        finally:
            for fd in self._fds:
                os.set_inheritable(fd, False)
