"""Publishes signals and property changes in order, batched.

Nothing is sent from within the handling of an event: an activation's spawn and
its answer go first, and the news of a few milliseconds is sent in one batch.
There are two kinds of news:

- An event (a signal such as ``ProcessExited``) is sent once, in order. While the
  bus does not take it, it waits here as a short note. The queue is bounded: when
  it is full, the oldest notes are dropped and counted in ``NSignalsDropped``. A
  client that sees this number grow must read the state again.
- State (objects and their properties) is compared with the last published state.
  Each difference is announced once, whatever its cause; an object that came and
  went in between is never mentioned.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.api import paths
from broker.api.manager import Manager
from broker.api.process import ProcessObject
from broker.api.service import ServiceObject
from broker.bus.codec import Variant
from broker.core.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.api.callers import Callers
    from broker.api.control import Control
    from broker.bus.objects import Interface, ObjectServer
    from broker.core.log import Log
    from broker.errors import DBusError
    from broker.services.units import Unit

log = logging.getLogger(__name__)

# In seconds. The interval of the kernel's own notices of emptied cgroups; too short
# to matter to a client, and long enough to turn a storm into a few writes.
DELAY: Final = 0.01
# Signals in one turn of the event loop, some 5 ms of work: the start and the exit of
# each process in a reaper's batch, so that in a storm neither outruns the other.
SLICE: Final = 128
# How many signals may wait: those of 16,384 processes, which is 16 MB.
BACKLOG: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class _Said:
    """An object's last published state: the properties with EmitsChangedSignal=true."""

    described: Interface
    values: dict[str, Any]


class Publisher:
    """The objects on the bus, and their signals, which wait while the server is silent."""

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
        self._objects: dict[str, Interface] = {}
        self._services: dict[str, str] = {}  # the paths of those, by name
        self._said: dict[str, _Said] = {}
        # Paths of objects that may differ from their published state, in order.
        self._dirty: dict[str, None] = {}
        # Queued events: the function that publishes each, and its subject.
        self._signals: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._taken = 0  # how many were sent or dropped so far
        self._dropping = False
        self._moved = asyncio.Event()
        self._next: asyncio.Handle | None = None
        server.on_fault = self.count_fault
        server.on_oversize = self._count_dropped
        self._add(paths.ROOT, self._manager)
        self._assume_said(paths.ROOT)

    def open(self) -> None:
        """Publish from now on; earlier events are no news, since no client could hear them."""
        self._taken += len(self._signals)
        self._signals.clear()
        self._dirty.clear()
        for path in self._objects:
            self._assume_said(path)
        self._server.silent = False

    # -- events ----------------------------------------------------------------

    def add_service(self, unit: Unit) -> None:
        """A service is new."""
        path = self._services[unit.service.name] = paths.of_service(unit.service.name)
        self._add(path, ServiceObject(unit.service.name, self._control, self._callers))
        self._mark(path)
        self._mark(paths.ROOT)  # it counts them

    def remove_service(self, name: str) -> None:
        """A service has no descriptor and no process any more."""
        path = self._services.pop(name)
        self._remove(path)
        self._mark(path)
        self._mark(paths.ROOT)

    def service_changed(self, unit: Unit) -> None:
        """A service's properties may have changed."""
        path = self._services.get(unit.service.name)
        if path is not None:
            self._mark(path)

    def process_started(self, process: Process) -> None:
        """A process is on record."""
        self._add(paths.of_process(process), ProcessObject(process))
        self._queue(self._say_started, process)

    def process_exited(self, process: Process, forgotten: Process | None) -> None:
        """A process was reaped, and the record ``forgotten`` dropped for it."""
        self._queue(self._say_exited, process)
        if forgotten is not None:
            self.process_forgotten(forgotten)

    def process_forgotten(self, process: Process) -> None:
        """The record of an ended process is dropped."""
        path = paths.of_process(process)
        self._remove(path)
        if path in self._said:
            self._mark(path)

    def activation_failed(self, unit: Unit, error: DBusError) -> None:
        """An activation has ended without the name."""
        service = unit.service
        details = {
            "Result": Variant("s", str(service.result)),
            "ExecMainPID": Variant("u", service.main.last_pid),
            "ExecMainCode": Variant("i", service.main.exit.code),
            "ExecMainStatus": Variant("i", service.main.exit.status),
            "InvocationID": Variant("ay", unit.invocation_id),
            "StateChangeTimestamp": Variant("t", service.changes.state.realtime),
        }
        if unit.log is not None:
            said = [] if self._server.discreet else unit.log.last_lines(service.activations)
            details["Log"] = Variant("as", said)
        self._queue(self._say_failed, [service.name, error.dbus_name, str(error), details])

    def log_appended(self, log: Log) -> None:
        """A log has new lines since a client read it."""
        self._queue(self._say_appended, log)

    def count_fault(self) -> None:
        """A call, or a task behind it, has failed through a fault of ours."""
        self._manager.faults += 1
        self._mark(paths.ROOT)

    def _count_dropped(self) -> None:
        self._manager.signals_dropped += 1
        self._mark(paths.ROOT)

    def manager_changed(self, *invalidated: str) -> None:
        """Counts may have changed, and the named properties have."""
        if invalidated:
            self._queue(self._say_invalidated, list(invalidated))
        self._mark(paths.ROOT)

    # -- the queue -------------------------------------------------------------

    def _add(self, path: str, described: Interface) -> None:
        self._objects[path] = described
        self._server.add(path, described)

    def _remove(self, path: str) -> None:
        del self._objects[path]
        self._server.remove(path)

    def _mark(self, path: str) -> None:
        self._dirty[path] = None
        self._arm()

    def _queue(self, say: Callable[[Any], None], subject: Any) -> None:
        self._signals.append((say, subject))
        if len(self._signals) > BACKLOG:
            self._drop()
        self._mark(paths.ROOT)

    def _drop(self) -> None:
        if not self._dropping:
            self._dropping = True
            log.warning("the bus is too slow for our signals: the oldest waiting ones are dropped")
        _, subject = self._signals.popleft()
        self._taken += 1
        self._manager.signals_dropped += 1
        # A client that reads everything again because of the drop sees this one, too.
        if isinstance(subject, Process) and (path := paths.of_process(subject)) in self._objects:
            self._assume_said(path)

    def _arm(self) -> None:
        if self._next is None:
            self._next = self._loop.call_later(DELAY, self.flush)

    # -- sending ---------------------------------------------------------------

    def flush(self) -> None:
        """Send the waiting news, or a part of it; schedules itself for the rest.

        To be called as well when the connection's backlog has drained.
        """
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._server.silent:
            return  # called again when it no longer is
        with self._server.together():
            for _ in range(SLICE):
                if not self._signals or self._server.behind:
                    break
                say, subject = self._signals.popleft()
                self._taken += 1
                self._try(say, subject)
            if not self._server.behind:
                self._say_changes()
        self._moved.set()
        self._moved.clear()
        if not self._signals:
            self._dropping = False
        elif not self._server.behind:
            self._next = self._loop.call_soon(self.flush)

    async def flushed(self) -> None:
        """Return when all news from before this call has been sent (or dropped)."""
        last = self._taken + len(self._signals)
        self.flush()
        while self._taken < last or self._server.silent:
            await self._moved.wait()
        self._say_changes()

    def close(self) -> None:
        """Publish nothing any more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _say_changes(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for path in dirty:
            self._try(self._say_change, path)

    def _try(self, say: Callable[[Any], None], subject: Any) -> None:
        """Publish one thing; a fault costs this signal, as a fault in a method costs its call."""
        try:
            say(subject)
        except Exception:
            log.exception("fault: a signal is not sent")
            self._manager.faults += 1
            if subject != paths.ROOT:  # else it would be retried for ever
                self._mark(paths.ROOT)

    def _say_change(self, path: str) -> None:
        described, said = self._objects.get(path), self._said.get(path)
        if said is not None and said.described is not described:
            del self._said[path]
            self._server.emit_removed(path, [said.described.spec.name])
            said = None
        if described is None:
            return
        now = self._assume_said(path)
        if said is None:
            self._server.emit_added(path)
            return
        changed = {name: value for name, value in now.items() if value != said.values[name]}
        if changed:
            self._server.emit_changed(path, described.spec, changed, [])

    def _assume_said(self, path: str) -> dict[str, Any]:
        described = self._objects[path]
        values = {
            name: described.get(name)
            for name, spec in described.spec.properties.items()
            if spec.emits == "true"
        }
        self._said[path] = _Said(described, values)
        return values

    def _say_started(self, process: Process) -> None:
        path = paths.of_process(process)
        self._say_change(path)
        body = [path, process.service, process.pid, process.ppid, str(process.origin)]
        self._server.emit(paths.ROOT, paths.MANAGER, "ProcessStarted", body)

    def _say_exited(self, process: Process) -> None:
        path = paths.of_process(process)
        details = {
            "UserUSec": Variant("t", process.usage.user),
            "SystemUSec": Variant("t", process.usage.system),
            "MaxRSSBytes": Variant("t", process.usage.max_rss),
            "ExitTimestamp": Variant("t", process.exited.realtime),
            "Command": Variant("s", "" if self._server.discreet else " ".join(process.command)),
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
        if path in self._objects:
            self._say_change(path)

    def _say_failed(self, body: list[Any]) -> None:
        self._server.emit(paths.ROOT, paths.MANAGER, "ActivationFailed", body)

    def _say_appended(self, log: Log) -> None:
        self._server.emit(paths.ROOT, paths.MANAGER, "LogAppended", [log.service, log.last])

    def _say_invalidated(self, names: list[str]) -> None:
        self._server.emit_changed(paths.ROOT, paths.MANAGER, {}, names)
