"""The services that this broker knows, each with its current descriptor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.core.log import Log
from broker.core.service import Service
from broker.core.start_limit import StartLimit
from broker.core.state import State
from broker.errors import ServiceUnknown
from broker.process.peer import NOBODY, Peer

if TYPE_CHECKING:
    import asyncio

    from broker.catalog.descriptor import Descriptor
    from broker.services.deadline import Deadline
    from broker.services.limits import Limits


@dataclass(slots=True, eq=False)
class Unit:
    """A service with its descriptor; exists while either of them does.

    Attributes:
        limit: the service's start limit, here since a changed environment resets it.
        activation: the supervisor's serial of the newest activation.
        owner: the process that took the name last; valid while the name is owned.
        invocation_id: of the newest activation, 16 random bytes; empty before the first.
        serving: the PIDs that the end of a failed activation spares.
        log: its output; None if that is not captured.
        listed: False once the descriptor is gone; the unit lasts until it is at rest.
        refused_at: the number of failures at which a closed gate was last logged.
    """

    descriptor: Descriptor
    service: Service
    limit: StartLimit
    activation: int = 0
    owner: Peer = NOBODY
    invocation_id: bytes = b""
    listed: bool = True
    refused_at: int = 0
    log: Log | None = None
    timer: Deadline | None = None
    serving: frozenset[int] = frozenset()
    stopping: list[asyncio.Future[None]] = field(default_factory=list)


class Units(Mapping[str, Unit]):
    """The units by name: those of the catalog, and those that have left it and still run."""

    def __init__(self, limits: Limits, *, logged: bool) -> None:
        """Empty at first; ``logged`` says whether services' output is kept."""
        self._limits = limits
        self._logged = logged
        self._units: dict[str, Unit] = {}

    def __getitem__(self, name: str) -> Unit:
        return self._units[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def named(self, name: str) -> Unit:
        """The service with a name.

        Raises:
            ServiceUnknown: no service has it.
        """
        unit = self._units.get(name)
        if unit is None or not (unit.listed or unit.service.stoppable):
            raise ServiceUnknown(f"The name {name} was not provided by any .service files")
        return unit

    def set_descriptors(
        self, descriptors: Mapping[str, Descriptor]
    ) -> tuple[list[Unit], list[Unit]]:
        """Take a new catalog; a running service outlives its descriptor.

        Returns:
            the units that are new or have a new descriptor, and the units that are gone
            or had another descriptor.
        """
        added, removed = [], []
        for name, unit in list(self._units.items()):
            unit.listed = name in descriptors
            if self.drop_if_over(unit):
                removed.append(unit)
        for name, descriptor in descriptors.items():
            old = self._units.get(name)
            if old is None:
                self._units[name] = self._new(name, descriptor)
                added.append(self._units[name])
            elif old.descriptor != descriptor:
                removed.append(old)
                old.descriptor = descriptor
                added.append(old)
        return added, removed

    def _new(self, name: str, descriptor: Descriptor) -> Unit:
        interval = round(self._limits.start_limit_interval * 1_000_000)
        limit = StartLimit(self._limits.start_limit_burst, interval)
        limits = self._limits
        service = Service(name, limit, limits.activation_timeout, limits.handover_timeout)
        return Unit(descriptor, service, limit, log=Log(name) if self._logged else None)

    def forgive(self) -> None:
        """Reset all start limits: services start under new conditions, so old failures are void."""
        for unit in self._units.values():
            unit.limit.reset()

    def drop_if_over(self, unit: Unit) -> bool:
        """Drop a unit that has no descriptor any more and is at rest; False if it stays."""
        name = unit.service.name
        at_rest = unit.service.state in (State.DEAD, State.FAILED)
        if unit.listed or not at_rest or self._units.get(name) is not unit:
            return False
        del self._units[name]
        return True
