"""The operations that D-Bus clients may ask of a session."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Final, Protocol

from broker.core import environment as env
from broker.core import events as ev
from broker.errors import InvalidArgs, LimitsExceeded, NotRunning
from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.core.log import Log
    from broker.core.processes import Process, Processes
    from broker.process.supervisor import Supervisor
    from broker.services.activator import Activator
    from broker.services.leaks import Leak
    from broker.services.limits import Limits
    from broker.services.units import Unit

log = logging.getLogger(__name__)

# How many calls may wait for one service's start, and how many for its end: twice one
# caller's quota of open calls. The calls of a caller that has gone wait on until the start
# or the end: to follow every client would wake us for each one that comes or goes.
MAX_WAITING: Final = 2048


class ControlEvents(Protocol):
    """Operations on the session as a whole."""

    async def reload(self) -> None:
        """Read the descriptors again."""

    async def leaks(self) -> list[Leak]:
        """The leaked processes."""

    async def exit(self, caller: str) -> None:
        """End the session."""

    def environment_changed(self) -> None:
        """The activation environment has changed."""


class Control:
    """The session, as its interface on the bus sees it."""

    def __init__(
        self,
        limits: Limits,
        activator: Activator,
        supervisor: Supervisor,
        events: ControlEvents,
    ) -> None:
        self.limits = limits
        self.engine_version = ""
        self.bus_address = ""
        self.directories: Sequence[str] = ()
        self._activator = activator
        self._supervisor = supervisor
        self._events = events

    # -- queries ---------------------------------------------------------------

    @property
    def units(self) -> Mapping[str, Unit]:
        """Every service, by name."""
        return self._activator.units

    @property
    def environment(self) -> Mapping[str, str]:
        """The activation environment."""
        return self._activator.environment

    @property
    def processes(self) -> Processes:
        """Every process on record."""
        return self._supervisor.processes

    def unit(self, name: str) -> Unit:
        """The service with a name; raises ServiceUnknown."""
        return self._activator.units.named(name)

    def tree(self, service: str) -> list[int]:
        """All live processes of a service."""
        return self._supervisor.tree(service)

    def census(self) -> Mapping[str, int]:
        """The number of live processes of each service that has any."""
        self._supervisor.adopt()
        found: dict[str, int] = {}
        for process in self.processes.live():
            tree = procfs.with_descendants([process.pid])
            found[process.service] = found.get(process.service, 0) + sum(map(procfs.alive, tree))
        return found

    def service_of(self, pid: int) -> str | None:
        """The service of any process; empty for none, None if it is not the broker's."""
        self._supervisor.adopt_above(pid)
        return self._supervisor.service_of(pid)

    def find_process(self, pid: int) -> Process | None:
        """The newest record with a PID."""
        self._supervisor.adopt_above(pid)
        return self.processes.newest(pid)

    def log(self, unit: Unit) -> Log:
        """A service's output so far; raises NotCaptured."""
        return self._activator.log(unit)

    async def leaks(self) -> list[Leak]:
        """The leaked processes."""
        return await self._events.leaks()

    # -- services --------------------------------------------------------------

    async def start_service(self, unit: Unit) -> None:
        """Activate; raises the reason of a failure."""
        _check_room(unit, len(unit.service.waiting))
        await self._activator.start(unit)

    async def stop_service(self, unit: Unit) -> None:
        """End all processes of a service; raises NotRunning if they are not ours."""
        if unit.service.taken and not unit.service.stoppable:
            raise NotRunning(
                f"{unit.service.name} is owned by {unit.service.owner}, which the broker "
                "did not start"
            )
        _check_room(unit, len(unit.stopping))
        await self._activator.stop(unit)

    def kill_service(self, unit: Unit, whom: str, number: int) -> None:
        """Send a signal; raises InvalidArgs or NotRunning."""
        name = unit.service.name
        if whom not in ("main", "all"):
            raise InvalidArgs(f"whom is main or all, not {whom!r}")
        if not 1 <= number <= signal.SIGRTMAX:
            raise InvalidArgs(f"there is no signal {number}")
        if whom == "all":
            sent = bool(self._supervisor.signal(name, number))
        else:
            main = unit.service.main.pid
            sent = bool(main) and self._supervisor.signal_process(main, number)
        if not sent:
            raise NotRunning(f"{name} has no {'main ' if whom == 'main' else ''}process")
        self._activator.handle(unit, ev.Signalled())

    def reset_failed(self, unit: Unit) -> None:
        """Forget failure and start limit."""
        self._activator.handle(unit, ev.ResetFailed())

    # -- the activation environment --------------------------------------------

    def set_environment(self, assignments: Sequence[str], caller: str) -> None:
        """Change the activation environment, or raise a DBusError and change nothing."""
        changes = dict(env.parse_assignment(each) for each in assignments)
        self._change_environment(changes, f"SetEnvironment, called by {caller},")

    def unset_environment(self, names: Sequence[str]) -> None:
        """Remove variables; raises InvalidArgs and changes nothing."""
        for name in names:
            env.check_name(name)
        for name in names:
            self._activator.environment.pop(name, None)
        self._events.environment_changed()

    def take_environment(self, changes: Mapping[str, str]) -> None:
        """Take changes that the bus has already accepted; the bad ones are only logged."""
        good, complaints = {}, []
        for name, value in changes.items():
            try:
                env.check_name(name)
                env.check_value(name, value)
            except InvalidArgs as e:
                complaints.append(str(e))
            else:
                good[name] = value
        try:
            self._change_environment(good, "UpdateActivationEnvironment")
        except LimitsExceeded as e:
            complaints.append(str(e))
        for complaint in env.listed(complaints):
            log.warning("UpdateActivationEnvironment: %s", complaint)

    def _change_environment(self, changes: Mapping[str, str], who: str) -> None:
        if not changes:
            return
        self._activator.environment = env.merge(self._activator.environment, changes)
        loaders = [env.shorten(name) for name in changes if env.loads_code(name)]
        if loaders:
            log.warning("%s sets %s for all services", who, ", ".join(env.listed(loaders)))
        self._events.environment_changed()

    # -- the session -----------------------------------------------------------

    async def reload(self) -> None:
        """Read the descriptors again."""
        await self._events.reload()

    async def exit(self, caller: str) -> None:
        """Stop every service; the bus ends after the caller has received its answer."""
        await self._events.exit(caller)


def _check_room(unit: Unit, waiting: int) -> None:
    if waiting >= MAX_WAITING:
        raise LimitsExceeded(f"{waiting} calls wait for {unit.service.name} already")
