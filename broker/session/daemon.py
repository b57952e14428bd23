"""One bus session: connects the engine, the services and the interface; starts and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from broker.api.control import Control
from broker.catalog.names import taken_with
from broker.core.environment import inherited
from broker.core.exits import CLD_EXITED
from broker.engine import listen
from broker.engine.base import EngineSettings, machine_id
from broker.engine.choose import choose
from broker.errors import (
    Broken,
    DBusError,
    EngineFailed,
    Fault,
    KernelRefused,
    NotReloaded,
)
from broker.process import kernel
from broker.process.supervisor import Supervisor
from broker.services import leaks
from broker.services.activator import Activator, own_users
from broker.session.presence import NAMES_TIMEOUT, VERDICT_TIMEOUT, Presence
from broker.session.reloading import Reloading
from broker.session.shutdown import ENGINE_STOP_TIMEOUT, Shutdown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from broker.catalog.descriptor import Descriptor
    from broker.core.events import Token
    from broker.core.processes import Process
    from broker.engine.base import Engine
    from broker.services.leaks import Leak
    from broker.services.units import Unit
    from broker.session.config import Config

log = logging.getLogger(__name__)

# An engine with its own activation timeout must not give up before us: it would
# answer without the reason. In seconds beyond our own timeouts.
ENGINE_PATIENCE: Final = 10.0
# How long to wait for the exit of an engine that has hung up: its exit status says more.
ENGINE_EXIT_TIMEOUT: Final = 0.5


class Daemon:
    """A bus with everything that runs on it; it handles the events of all parts.

    Made by ``open``; then ``start``, then ``wait``.
    """

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:
        """Take over this process, which has SIGCHLD blocked, for one session.

        On exit every service is ended, then the bus, then all other processes.

        Raises:
            EngineMissing: no engine is installed.
            KernelRefused: the system lacks a feature that we need.
        """
        engine, program = choose(config.engine, config.rules.restricts)
        kernel.become_subreaper()
        signal_fd = kernel.open_signalfd([signal.SIGCHLD])
        self = cls(config, engine, program, signal_fd)
        self._loop.set_exception_handler(self._on_fault)
        self.supervisor.begin()
        # A collection would write to memory that the guardian shares with us, and copy it.
        gc.freeze()
        self.supervisor.guard(config.limits.stop_timeout, silent=config.background)
        try:
            yield self
        finally:
            await self._stop()

    def __init__(self, config: Config, engine: type[Engine], program: str, signal_fd: int) -> None:
        self._signal_fd = signal_fd
        self.config = config
        self.bus_address = ""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._fault: Fault | None = None
        self._last_fault = ""
        self._stopped_services: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._exit_callers: list[str] = []
        self._early: list[tuple[str, Token]] | None = []
        self.supervisor = Supervisor(self._loop, self)
        self._reloading = Reloading(
            config.directories, self.supervisor.parts, self, taken=taken_with(engine.program)
        )
        self._activator = Activator(config.limits, self.supervisor, output=config.output)
        self._activator.environment = inherited(config.environ)
        if config.rules.kind == "system":
            self._activator.users = own_users()
        self._control = Control(config.limits, self._activator, self.supervisor, self)
        self._control.directories = [each.path for each in config.directories]
        settings = EngineSettings(
            program=program,
            listener=config.listener,
            machine_id=machine_id(),
            start_timeout=config.limits.activation_timeout
            + config.limits.stop_timeout
            + ENGINE_PATIENCE,
            rules=config.rules,
        )
        self._engine = engine(settings, self, self.supervisor.spawn)
        self._engine.names_now = self.names_now
        self._activator.explains = not self._engine.admits_others
        self._presence = Presence(
            self._control,
            self._activator,
            machine_id=machine_id(),
            max_rules=self._engine.max_rules,
            largest=self._engine.largest_message,
            discreet=self._engine.admits_others,
        )
        self._publisher = self._presence.publisher
        self._activator.connect(self._engine, self._presence.names, self._publisher)
        self._shutdown = Shutdown(
            self.supervisor, self._activator, self._engine, config.limits.stop_timeout
        )

    # -- beginning and end -----------------------------------------------------

    async def start(self) -> None:
        """Start the bus and take our place on it; then clients can be served.

        Raises:
            Fault: the bus did not start.
        """
        starting = self._loop.create_task(self._start())
        ended = self._loop.create_task(self._ended.wait())
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
            # If the bus has ended, the start knows the reason best, but on a socket that
            # was passed to us it could wait for an answer for ever.
            await asyncio.wait({starting}, timeout=ENGINE_STOP_TIMEOUT)
            await (starting if starting.done() else self.wait())
        finally:
            starting.cancel()
            ended.cancel()
            await asyncio.gather(starting, ended, return_exceptions=True)

    async def _start(self) -> None:
        # The bus may serve clients before us: their requests wait until we are connected.
        self._loop.add_reader(self._signal_fd, self._on_signals)
        listen.sweep_directories(self.config.environ)
        try:
            await self._reloading.begin()
        except NotReloaded as e:
            raise KernelRefused(str(e)) from e
        await self._engine.start(self.units.keys())
        self.supervisor.end_last(self._engine.pid, self._engine.lifelines)
        listening = str(self.config.listener.address)
        try:
            guid = await self._presence.watch(listening, self.units.keys())
            self.bus_address = f"{listening},guid={guid}"
            self._set_bus_environment()
            self._control.engine_version = self._engine.version
            self._control.bus_address = self.bus_address
            await self._presence.serve(listening)
        except DBusError as e:
            raise EngineFailed(f"{self._engine.version} refuses the broker: {e}") from e
        self._reloading.open()
        early, self._early = self._early, None
        for name, token in early or ():
            self._activator.requested(name, token)
        # The objects of now will stay: later collections need not scan them again, and so
        # are too short to be felt in the middle of an activation.
        gc.collect()
        gc.freeze()

    def _on_signals(self) -> None:
        kernel.read_signalfd(self._signal_fd)
        self.supervisor.reap()

    def _set_bus_environment(self) -> None:
        self._activator.bus_environment = {
            "DBUS_STARTER_ADDRESS": self.bus_address,
            "DBUS_STARTER_BUS_TYPE": self.config.rules.kind,
            f"DBUS_{self.config.rules.kind.upper()}_BUS_ADDRESS": self.bus_address,
        }

    async def wait(self) -> None:
        """Return when a client has called ``Exit``.

        Raises:
            Fault: the bus ended, or (Broken) the broker failed.
        """
        await self._ended.wait()
        if self._fault is not None:
            raise self._fault

    async def _stop(self) -> None:
        """End every service, then the bus, then all other processes."""
        if self._fault is None and self.bus_address:
            # A service that owns its name by now must not be reported as not started.
            await self._presence.heard(NAMES_TIMEOUT)
        self._closing = True
        self._reloading.stop()
        self.supervisor.parts.kill_all()
        await self._shutdown.stop_processes()
        if not self._stopped_services.done():
            self._stopped_services.set_result(None)
        await self._presence.finish(self._exit_callers, ENGINE_STOP_TIMEOUT)
        self._presence.close()
        await self._shutdown.stop_engine()
        self._activator.close_logs()
        self._reloading.close()
        self._loop.remove_reader(self._signal_fd)
        os.close(self._signal_fd)
        self.supervisor.close()

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an unexpected exception.

        In a task that no caller waits for, such as a reload, it is only logged and counted. In a
        callback of the loop (the reaping, a timer, the bus's news) it ends the session.
        """
        fault = context.get("exception") or RuntimeError(context["message"])
        if repr(fault) != self._last_fault:
            # The reaping runs again in each turn of the loop, and may fail the same way.
            self._last_fault = repr(fault)
            log.error("fault: %s", context["message"], exc_info=fault)
        # The context of "Task exception was never retrieved" has the future in it.
        if "future" in context and not isinstance(fault, Broken):
            self._publisher.count_fault()
            return
        if not isinstance(fault, Fault):
            fault = Broken(f"a fault in the broker: {type(fault).__name__}: {fault}")
        self._end(fault)

    def _end(self, fault: Fault | None) -> None:
        if not self._ended.is_set():
            self._fault = fault
            self._ended.set()

    # -- the catalog -----------------------------------------------------------

    def descriptors_read(self, descriptors: Mapping[str, Descriptor]) -> None:
        """Of ``ReloadEvents``."""
        added, removed = self._activator.units.set_descriptors(descriptors)
        # People also reload because they have installed a program or a library, without a
        # change of any descriptor.
        self._activator.units.forgive()
        for unit in removed:
            if unit.service.name in self.units:  # with another descriptor
                self._publisher.remove_service(unit.service.name)
            else:
                self._activator.forget(unit)
        for unit in added:
            self._publisher.add_service(unit)

    async def tell_names(self) -> None:
        """Of ``ReloadEvents``."""
        await self._presence.names.watch(self.units.keys())
        # Listed only now: the bus may have made us read them again meanwhile.
        await self._engine.set_names(self._listed())
        # If a new name is owned already, its owner is known when this returns.
        await self._presence.heard(VERDICT_TIMEOUT)

    def names_now(self) -> Collection[str]:
        """Of ``Engine``."""
        self._reloading.look()
        # It counts as a reload even if no file has changed.
        self._activator.units.forgive()
        return self._listed()

    def _listed(self) -> list[str]:
        return [name for name, unit in self.units.items() if unit.listed]

    async def reload(self) -> None:
        """Read the descriptors again; see ``Reloading``."""
        await self._reloading.reload()

    # -- events of the engine --------------------------------------------------

    def activation_requested(self, name: str, token: Token) -> None:
        """Of ``EngineEvents``."""
        if self._early is None:
            self._activator.requested(name, token)
        else:
            self._early.append((name, token))

    def environment_updated(self, changes: Mapping[str, str]) -> None:
        """Of ``EngineEvents``."""
        self._control.take_environment(changes)

    async def reload_requested(self) -> None:
        """Of ``EngineEvents``."""
        await self.reload()

    def engine_gone(self, reason: str) -> None:
        """Of ``EngineEvents``."""
        self._loop.call_later(ENGINE_EXIT_TIMEOUT, self._end_with_engine, reason)

    def _end_with_engine(self, reason: str) -> None:
        if not self._closing:
            self._end(EngineFailed(f"the message bus has ended: {reason}"))

    # -- events of processes ---------------------------------------------------

    def process_started(self, process: Process) -> None:
        """Of ``ProcessEvents``."""
        self._publisher.process_started(process)

    def process_exited(self, process: Process, forgotten: Process | None) -> None:
        """Of ``ProcessEvents``."""
        self._publisher.process_exited(process, forgotten)
        if process.pid == self._engine.pid:
            how = "status" if process.exit.code == CLD_EXITED else "signal"
            self._end_with_engine(f"{self._engine.version}: {how} {process.exit.status}")
        self._activator.process_exited(process)

    def activation_emptied(self, activation: int, service: str) -> None:
        """Of ``ProcessEvents``."""
        del activation
        self._activator.activation_emptied(service)

    def environment_changed(self) -> None:
        """Of ``ControlEvents``."""
        self._activator.units.forgive()
        self._publisher.manager_changed("Environment")

    async def exit(self, caller: str) -> None:
        """Of ``ControlEvents``: returns when every service has ended."""
        self._exit_callers.append(caller)
        self._end(None)
        await asyncio.shield(self._stopped_services)

    # -- queries -----------------------------------------------------------------

    @property
    def units(self) -> Mapping[str, Unit]:
        """Every service, by name."""
        return self._activator.units

    async def leaks(self) -> list[Leak]:
        """Of ``ControlEvents``: after all news of names that the bus has by now."""
        # If the bus is gone, there is no such news: its services have lost their names.
        await self._presence.heard(VERDICT_TIMEOUT)
        units, engine = self.units.values(), self._engine.pid
        found = leaks.find(units, self.supervisor, engine, names={})
        if found:
            # Only these need the list of connections: it takes hundreds of questions.
            names = await self._presence.processes(VERDICT_TIMEOUT)
            found = leaks.find(units, self.supervisor, engine, names)
        return found
