"""The root object: ``org.activation.Broker1.Manager``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker import __version__
from broker.api import paths
from broker.bus.objects import Interface
from broker.errors import NoSuchProcess
from broker.process import kernel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.api.callers import Callers
    from broker.api.control import Control
    from broker.bus.interface import InterfaceSpec

_USEC: Final = 1_000_000


class Manager(Interface):
    """The session's methods and properties, beyond those of one service or process.

    Attributes:
        signals_dropped: how many signals were never sent.
        faults: how many calls and signals failed through a fault of ours.
    """

    __slots__ = ("_callers", "_control", "_methods", "faults", "signals_dropped")
    spec: ClassVar[InterfaceSpec] = paths.MANAGER
    private: ClassVar[frozenset[str]] = frozenset({"Environment"})

    def __init__(self, control: Control, callers: Callers) -> None:
        self._control = control
        self._callers = callers
        self.signals_dropped = 0
        self.faults = 0
        # (needs privilege, method)
        self._methods: dict[str, tuple[bool, Callable[..., Awaitable[list[Any]]]]] = {
            "StartService": (True, self._start_service),
            "StopService": (True, self._stop_service),
            "KillService": (True, self._kill_service),
            "ResetFailed": (True, self._reset_failed),
            "GetService": (False, self._get_service),
            "GetServiceByPID": (False, self._get_service_by_pid),
            "GetProcess": (False, self._get_process),
            "ListServices": (False, self._list_services),
            "ListServiceStates": (False, self._list_service_states),
            "GetLog": (True, self._get_log),
            "ListLeaks": (True, self._list_leaks),
            "Reload": (True, self._reload),
            "SetEnvironment": (True, self._set_environment),
            "UnsetEnvironment": (True, self._unset_environment),
            "Exit": (True, self._exit),
        }

    def get(self, name: str) -> Any:
        """The value of a property."""
        if name == "NSignalsDropped":
            return self.signals_dropped
        if name == "NFaults":
            return self.faults
        return _PROPERTIES[name](self._control)

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """Carry out a method."""
        privileged, method = self._methods[member]
        if privileged:
            await self._callers.require_privilege(caller)
        if member in ("Exit", "SetEnvironment"):
            arguments = [*arguments, caller]
        return await method(*arguments)

    async def _start_service(self, name: str) -> list[Any]:
        await self._control.start_service(self._control.unit(name))
        return [paths.of_service(name)]

    async def _stop_service(self, name: str) -> list[Any]:
        await self._control.stop_service(self._control.unit(name))
        return []

    async def _kill_service(self, name: str, whom: str, number: int) -> list[Any]:
        self._control.kill_service(self._control.unit(name), whom, number)
        return []

    async def _reset_failed(self, name: str) -> list[Any]:
        units = [self._control.unit(name)] if name else list(self._control.units.values())
        for unit in units:
            self._control.reset_failed(unit)
        return []

    async def _get_service(self, name: str) -> list[Any]:
        self._control.unit(name)
        return [paths.of_service(name)]

    async def _get_service_by_pid(self, pid: int) -> list[Any]:
        service = self._control.service_of(pid)
        if not service:
            raise NoSuchProcess(f"process {pid} belongs to no service of this bus")
        return [paths.of_service(service)]

    async def _get_process(self, pid: int) -> list[Any]:
        process = self._control.find_process(pid)
        if process is None:
            raise NoSuchProcess(f"process {pid} is not a child of the broker, and was not recently")
        return [paths.of_process(process)]

    async def _list_services(self) -> list[Any]:
        return [
            [
                [name, paths.of_service(name), unit.service.state.value[0], unit.service.main.pid]
                for name, unit in self._control.units.items()
            ]
        ]

    async def _list_service_states(self) -> list[Any]:
        census = self._control.census()
        return [
            [
                [
                    name,
                    paths.of_service(name),
                    unit.listed,
                    *unit.service.state.value,
                    str(unit.service.result),
                    unit.service.main.pid,
                    census.get(name, 0),
                    unit.service.changes.state.realtime,
                ]
                for name, unit in self._control.units.items()
            ]
        ]

    async def _get_log(self, name: str, after: int, lines: int) -> list[Any]:
        entries, dropped = self._control.log(self._control.unit(name)).after(after, lines)
        return [
            [
                [serial, at.realtime, at.monotonic, activation, stream, text]
                for serial, at, activation, stream, text in entries
            ],
            dropped,
        ]

    async def _list_leaks(self) -> list[Any]:
        return [
            [
                [leak.service, leak.pid, leak.adopted, list(leak.command), round(leak.age * _USEC)]
                for leak in await self._control.leaks()
            ]
        ]

    async def _reload(self) -> list[Any]:
        await self._control.reload()
        return []

    async def _set_environment(self, assignments: list[str], caller: str) -> list[Any]:
        self._control.set_environment(assignments, caller)
        return []

    async def _unset_environment(self, names: list[str]) -> list[Any]:
        self._control.unset_environment(names)
        return []

    async def _exit(self, caller: str) -> list[Any]:
        await self._control.exit(caller)
        return []


_PROPERTIES: Final[dict[str, Callable[[Control], Any]]] = {
    "Version": lambda _: __version__,
    "Engine": lambda control: control.engine_version,
    "BusAddress": lambda control: control.bus_address,
    "Subreaper": lambda _: kernel.is_subreaper(),
    "ServiceDirectories": lambda control: list(control.directories),
    "Environment": lambda control: [
        f"{name}={value}" for name, value in sorted(control.environment.items())
    ],
    "NServices": lambda control: len(control.units),
    "NProcesses": lambda control: len(control.processes),
    "NReaped": lambda control: control.processes.reaped,
    "ActivationTimeoutUSec": lambda control: round(control.limits.activation_timeout * _USEC),
    "StopTimeoutUSec": lambda control: round(control.limits.stop_timeout * _USEC),
    "StartLimitIntervalUSec": lambda control: round(control.limits.start_limit_interval * _USEC),
    "StartLimitBurst": lambda control: control.limits.start_limit_burst,
}
