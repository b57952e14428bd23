"""The object of one child of the broker: ``org.activation.Broker1.Process``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker.api import paths
from broker.bus.objects import Interface
from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.bus.interface import InterfaceSpec
    from broker.core.processes import Process


class ProcessObject(Interface):
    """A process, live or recently ended."""

    __slots__ = ("_process",)
    spec: ClassVar[InterfaceSpec] = paths.PROCESS
    private: ClassVar[frozenset[str]] = frozenset({"Command"})

    def __init__(self, process: Process) -> None:
        self._process = process

    def get(self, name: str) -> Any:
        """The value of a property."""
        return _PROPERTIES[name](self._process)

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """There are no methods."""
        raise AssertionError(member, arguments, caller)


def _command(process: Process) -> list[str]:
    if process.running:
        # It may have executed another program since; a zombie has lost its command line.
        process.command = procfs.arguments(process.pid) or process.command
    return list(process.command)


_PROPERTIES: Final[dict[str, Callable[[Process], Any]]] = {
    "PID": lambda process: process.pid,
    "PPID": lambda process: process.ppid,
    "Service": lambda process: paths.of_service(process.service) if process.service else "/",
    "ServiceName": lambda process: process.service,
    "Origin": lambda process: str(process.origin),
    "Attribution": lambda process: str(process.attribution),
    "Activation": lambda process: process.activation,
    "State": lambda process: "running" if process.running else "exited",
    "Command": _command,
    "StartTimestamp": lambda process: process.started.realtime,
    "StartTimestampMonotonic": lambda process: process.started.monotonic,
    "ExitTimestamp": lambda process: process.exited.realtime,
    "ExitTimestampMonotonic": lambda process: process.exited.monotonic,
    "ExitCode": lambda process: process.exit.code,
    "ExitStatus": lambda process: process.exit.status,
    "UserUSec": lambda process: process.usage.user,
    "SystemUSec": lambda process: process.usage.system,
    "MaxRSSBytes": lambda process: process.usage.max_rss,
}
