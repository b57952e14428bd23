"""The object of one activatable name: ``org.activation.Broker1.Service``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker.api import paths
from broker.bus.objects import Interface
from broker.core.printable import bounded, bounded_words
from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.api.callers import Callers
    from broker.api.control import Control
    from broker.bus.interface import InterfaceSpec
    from broker.core.history import Activation
    from broker.services.units import Unit


class ServiceObject(Interface):
    """A service, running or not."""

    __slots__ = ("_callers", "_control", "_name")
    spec: ClassVar[InterfaceSpec] = paths.SERVICE
    private: ClassVar[frozenset[str]] = frozenset({"OwnerCommand"})

    def __init__(self, name: str, control: Control, callers: Callers) -> None:
        # Not the unit: the name may leave the catalog while a call waits, and return.
        self._name = name
        self._control = control
        self._callers = callers

    def get(self, name: str) -> Any:
        """The value of a property."""
        if name in _COMPUTED:
            return _COMPUTED[name](self._control, self._name)
        return _PROPERTIES[name](self._control.units[self._name])

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """Carry out a method; all of them change something."""
        await self._callers.require_privilege(caller)
        unit = self._control.unit(self._name)
        match member:
            case "Start":
                await self._control.start_service(unit)
            case "Stop":
                await self._control.stop_service(unit)
            case "Kill":
                self._control.kill_service(unit, *arguments)
            case "ResetFailed":
                self._control.reset_failed(unit)
        return []


_PROPERTIES: Final[dict[str, Callable[[Unit], Any]]] = {
    "Name": lambda unit: unit.service.name,
    "DescriptorPath": lambda unit: unit.descriptor.path,
    "User": lambda unit: bounded(unit.descriptor.user),
    "ExecStart": lambda unit: list(bounded_words(unit.descriptor.argv)),
    "ActiveState": lambda unit: unit.service.state.value[0],
    "SubState": lambda unit: unit.service.state.value[1],
    "Result": lambda unit: str(unit.service.result),
    "Owner": lambda unit: unit.service.owner,
    "OwnerPID": lambda unit: unit.owner.pid if unit.service.owner else 0,
    "OwnerCommand": lambda unit: list(unit.owner.command()) if unit.service.owner else [],
    "Shadowed": lambda unit: list(bounded_words(unit.descriptor.shadowed)),
    "MainPID": lambda unit: unit.service.main.pid,
    "ExecMainPID": lambda unit: unit.service.main.last_pid,
    "ExecMainCode": lambda unit: unit.service.main.exit.code,
    "ExecMainStatus": lambda unit: unit.service.main.exit.status,
    "ExecMainStartTimestamp": lambda unit: unit.service.main.started.realtime,
    "ExecMainStartTimestampMonotonic": lambda unit: unit.service.main.started.monotonic,
    "ExecMainExitTimestamp": lambda unit: unit.service.main.ended.realtime,
    "ExecMainExitTimestampMonotonic": lambda unit: unit.service.main.ended.monotonic,
    "StateChangeTimestamp": lambda unit: unit.service.changes.state.realtime,
    "StateChangeTimestampMonotonic": lambda unit: unit.service.changes.state.monotonic,
    "InactiveExitTimestamp": lambda unit: unit.service.changes.inactive_exit.realtime,
    "InactiveExitTimestampMonotonic": lambda unit: unit.service.changes.inactive_exit.monotonic,
    "ActiveEnterTimestamp": lambda unit: unit.service.changes.active_enter.realtime,
    "ActiveEnterTimestampMonotonic": lambda unit: unit.service.changes.active_enter.monotonic,
    "ActiveExitTimestamp": lambda unit: unit.service.changes.active_exit.realtime,
    "ActiveExitTimestampMonotonic": lambda unit: unit.service.changes.active_exit.monotonic,
    "InactiveEnterTimestamp": lambda unit: unit.service.changes.inactive_enter.realtime,
    "InactiveEnterTimestampMonotonic": lambda unit: unit.service.changes.inactive_enter.monotonic,
    "InvocationID": lambda unit: unit.invocation_id,
    "NActivations": lambda unit: unit.service.activations,
    "NFailures": lambda unit: unit.service.failures,
    "ActivationUSec": lambda unit: unit.service.activation_usec,
    "Activations": lambda unit: list(map(_row, unit.service.history)),
}


def _row(activation: Activation) -> list[Any]:
    moments = (activation.requested, activation.started, activation.owned, activation.ended)
    times = [usec for at in moments for usec in (at.realtime, at.monotonic)]
    return [activation.number, activation.pid, *times, str(activation.result)]


def _pids(control: Control, name: str) -> list[int]:
    return [pid for pid in control.tree(name) if procfs.alive(pid)]


def _cpu_usage(control: Control, name: str) -> int:
    used = control.processes.usage(name)
    return (used.user + used.system) * 1000 + sum(
        procfs.cpu_nanoseconds(pid) for pid in control.tree(name)
    )


def _memory_peak(control: Control, name: str) -> int:
    peaks = [procfs.peak_memory(pid) for pid in control.tree(name)]
    return max(control.processes.usage(name).max_rss, *peaks, 0)


_COMPUTED: Final[dict[str, Callable[[Control, str], Any]]] = {
    "PIDs": _pids,
    "CPUUsageNSec": _cpu_usage,
    "MemoryPeak": _memory_peak,
}
