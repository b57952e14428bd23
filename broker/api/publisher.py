"""Says on the bus what has happened, a little later and in order.

Nothing is sent from within the handling of an event: an activation's spawn and
its answer go first, and what happens within a few milliseconds is said in one
go. Values are compared with those that were said last, so whatever has changed
is announced, whoever changed it, and nothing is announced twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.api import paths
from broker.api.manager import Manager
from broker.api.process import ProcessObject
from broker.api.service import ServiceObject
from broker.bus.codec import Variant

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from broker.activation import Unit
    from broker.api.control import Callers, Control
    from broker.bus.objects import Interface, ObjectServer
    from broker.core.log import Log
    from broker.core.processes import Process
    from broker.errors import Outcome

# In seconds. As often as the kernel tells of a cgroup that has become empty;
# nobody's reaction to a signal is hurt by it, and a storm becomes a few writes.
DELAY: Final = 0.01


class Publisher:
    """The objects on the bus, and their signals."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: ObjectServer,
        control: Control,
        callers: Callers,
    ) -> None:
        self._loop = loop
        self._server = server
        self._control = control
        self._callers = callers
        self._manager = Manager(control, callers)
        self._services: dict[str, ServiceObject] = {}
        self._processes: dict[int, ProcessObject] = {}
        # The values of properties with EmitsChangedSignal=true, as said last.
        self._said: dict[str, dict[str, Any]] = {}
        self._signals: list[Callable[[], None]] = []
        self._dirty: dict[str, Interface] = {}
        self._timer: asyncio.TimerHandle | None = None
        server.add(paths.ROOT, self._manager)
        self._remember(paths.ROOT, self._manager)

    # -- what happens ----------------------------------------------------------

    def add_service(self, unit: Unit, *, announce: bool = True) -> None:
        """A descriptor has come; ``announce`` is False before clients can know the bus."""
        name = unit.service.name
        path = paths.of_service(name)
        service = ServiceObject(unit, self._control, self._callers)
        self._services[name] = service
        self._server.add(path, service)

        def say() -> None:
            # It may have gone already, and another one may have its place.
            if self._services.get(name) is service:
                self._remember(path, service)
                self._server.emit_added(path)

        if announce:
            self._queue(say)
        else:
            self._remember(path, service)

    def remove_service(self, name: str) -> None:
        """A descriptor has gone, and nothing of its service runs."""
        path = paths.of_service(name)
        del self._services[name]
        self._dirty.pop(path, None)
        self._server.remove(path)
        if self._said.pop(path, None) is not None:
            self._queue(lambda: self._server.emit_removed(path, [paths.SERVICE.name]))

    def service_changed(self, unit: Unit) -> None:
        """Something of a service may be new."""
        name = unit.service.name
        if name in self._services:
            self._mark(paths.of_service(name), self._services[name])

    def process_started(self, process: Process) -> None:
        """A process is on record."""
        path = paths.of_process(process)
        described = ProcessObject(process)
        self._processes[process.serial] = described
        self._server.add(path, described)

        def say() -> None:
            if process.serial in self._processes:
                self._remember(path, described)
                self._server.emit_added(path)
            body = [path, process.service, process.pid, process.ppid, str(process.origin)]
            self._server.emit(paths.ROOT, paths.MANAGER, "ProcessStarted", body)

        self._queue(say)

    def process_exited(self, process: Process, forgotten: Process | None) -> None:
        """A process was reaped, and another record may make room for it."""
        path = paths.of_process(process)
        self._mark(path, self._processes[process.serial])
        self._queue(lambda: self._say_exited(path, process))
        if forgotten is not None:
            self.process_forgotten(forgotten)

    def process_forgotten(self, process: Process) -> None:
        """The record of an ended process is dropped."""
        path = paths.of_process(process)
        del self._processes[process.serial]
        self._dirty.pop(path, None)
        self._server.remove(path)
        self._queue(lambda: self._say_forgotten(path))

    def activation_failed(self, unit: Unit, error: Outcome) -> None:
        """An activation has ended without the name."""
        service = unit.service
        details = {
            "Result": Variant("s", str(service.result)),
            "ExecMainPID": Variant("u", service.exec_main_pid),
            "ExecMainCode": Variant("i", service.exec_main_exit.code),
            "ExecMainStatus": Variant("i", service.exec_main_exit.status),
            "InvocationID": Variant("ay", unit.invocation_id),
        }
        if unit.log is not None:
            details["Log"] = Variant("as", unit.log.last_lines(service.activations))
        body = [service.name, error.dbus_name, str(error), details]
        self._queue(lambda: self._server.emit(paths.ROOT, paths.MANAGER, "ActivationFailed", body))

    def log_appended(self, log: Log) -> None:
        """There is more in a log than when somebody read it."""
        self._queue(
            lambda: self._server.emit(
                paths.ROOT, paths.MANAGER, "LogAppended", [log.service, log.last]
            )
        )

    def manager_changed(self, *invalidated: str) -> None:
        """Counts may be new; the named properties are."""
        if invalidated:
            self._queue(
                lambda: self._server.emit_changed(paths.ROOT, paths.MANAGER, {}, list(invalidated))
            )
        self._mark(paths.ROOT, self._manager)

    # -- saying it -------------------------------------------------------------

    def _say_exited(self, path: str, process: Process) -> None:
        details = {
            "UserUSec": Variant("t", process.usage.user),
            "SystemUSec": Variant("t", process.usage.system),
            "MaxRSSBytes": Variant("t", process.usage.max_rss),
            "Command": Variant("s", " ".join(process.command)),
            "Origin": Variant("s", str(process.origin)),
            "Attribution": Variant("s", str(process.attribution)),
        }
        body = [
            path,
            process.service,
            process.pid,
            process.exit.code,
            process.exit.status,
            details,
        ]
        self._server.emit(paths.ROOT, paths.MANAGER, "ProcessExited", body)

    def _say_forgotten(self, path: str) -> None:
        # One that was never said to be there need not be said to have gone.
        if self._said.pop(path, None) is not None:
            self._server.emit_removed(path, [paths.PROCESS.name])

    def _remember(self, path: str, described: Interface) -> dict[str, Any]:
        values = {
            name: described.get(name)
            for name, spec in described.spec.properties.items()
            if spec.emits == "true"
        }
        self._said[path] = values
        return values

    def _mark(self, path: str, described: Interface) -> None:
        self._dirty[path] = described
        self._arm()

    def _queue(self, say: Callable[[], None]) -> None:
        self._signals.append(say)
        self._dirty[paths.ROOT] = self._manager
        self._arm()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY, self.flush)

    def flush(self) -> None:
        """Say all that waits, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        signals, self._signals = self._signals, []
        dirty, self._dirty = self._dirty, {}
        for say in signals:
            say()
        for path, described in dirty.items():
            before = self._said[path]
            now = self._remember(path, described)
            changed = {name: value for name, value in now.items() if value != before[name]}
            if changed:
                self._server.emit_changed(path, described.spec, changed, [])

    def close(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
