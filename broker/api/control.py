"""What the objects on the bus ask of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.core.log import Log
    from broker.core.processes import Process, Processes
    from broker.services.leaks import Leak
    from broker.services.limits import Limits
    from broker.services.units import Unit


class Control(Protocol):
    """The daemon, as its interface on the bus sees it."""

    limits: Limits
    engine_version: str
    bus_address: str
    directories: Sequence[str]

    @property
    def units(self) -> Mapping[str, Unit]:
        """Every service, by name."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The activation environment."""

    @property
    def processes(self) -> Processes:
        """Every process on record."""

    def unit(self, name: str) -> Unit:
        """The service with a name; raises ServiceUnknown."""

    def tree(self, service: str) -> list[int]:
        """All live processes of a service."""

    def census(self) -> Mapping[str, int]:
        """How many live processes each service has that has any."""

    def service_of(self, pid: int) -> str | None:
        """The service of any process: empty for none, None for a stranger."""

    def find_process(self, pid: int) -> Process | None:
        """The newest record with a PID."""

    def log(self, unit: Unit) -> Log:
        """All that a service has written; raises NotCaptured."""

    async def leaks(self) -> list[Leak]:
        """What is alive and has no business to be."""

    async def start_service(self, unit: Unit) -> None:
        """Activate; raises the reason if it fails."""

    async def stop_service(self, unit: Unit) -> None:
        """End all processes of a service; raises NotRunning if they are not ours."""

    def kill_service(self, unit: Unit, whom: str, number: int) -> None:
        """Send a signal; raises InvalidArgs or NotRunning."""

    def reset_failed(self, unit: Unit) -> None:
        """Forget failure and start limit."""

    async def reload(self) -> None:
        """Read the descriptors again."""

    def set_environment(self, assignments: Sequence[str], caller: str) -> None:
        """Change the activation environment, or raise an Outcome and change nothing."""

    def unset_environment(self, names: Sequence[str]) -> None:
        """Remove variables; raises InvalidArgs and changes nothing."""

    async def exit(self, caller: str) -> None:
        """Stop every service; the bus ends when the caller has had its answer."""


class Callers(Protocol):
    """Who may change something, and read what is not everybody's."""

    async def require_privilege(self, caller: str) -> None:
        """Raises AccessDenied unless the caller is our own user or root."""
