"""Finds the process that has taken a service's name, and its service and activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import events as ev
from broker.core.clock import Instant
from broker.core.events import OwnerKind
from broker.process import clock, procfs

if TYPE_CHECKING:
    from broker.process.supervisor import Supervisor
    from broker.services.units import Unit


def acquired(
    supervisor: Supervisor, unit: Unit, owner: str, pid: int | None, heard: float
) -> ev.NameAcquired:
    """The event for a service whose name has a new owner.

    Args:
        owner: its unique name.
        pid, heard: see ``NameEvents``.
    """
    service: str | None
    if pid is None or (pid == 0 and _has_lost(supervisor, unit)):
        # asyncio's clock is the monotonic one (loop.time), in seconds.
        started = Instant(0, int(heard * 1e6))
        service, activation = unit.service.name, unit.activation
    elif pid:
        service, activation, started = _who(supervisor, pid)
    else:
        # The owner is in a PID namespace that the bus does not see into; our processes are
        # in our namespace or in one below it.
        service, activation, started = None, 0, clock.now()
    if service == unit.service.name:
        kind = OwnerKind.OWN
    else:
        kind = OwnerKind.FOREIGN if service is None else OwnerKind.OTHER
    current = kind is OwnerKind.OWN and activation == unit.activation
    return ev.NameAcquired(owner, pid or 0, kind, started, current)


def _has_lost(supervisor: Supervisor, unit: Unit) -> bool:
    """Whether a process of the newest activation has ended, and another one lives.

    dbus-daemon 1.16 does not know the PID of a process that left its connection to a child.
    """
    supervisor.reap()
    processes = supervisor.processes
    ended = any(each.activation == unit.activation for each in processes.ended())
    return ended and bool(processes.of_activation(unit.activation))


def _who(supervisor: Supervisor, pid: int) -> tuple[str | None, int, Instant]:
    """The service, activation and start of a process that took a name."""
    # It may be an orphan that is not on record yet.
    supervisor.adopt_above(pid)
    process = supervisor.processes.get(pid)
    about = procfs.stat(pid)
    if process is None and about is None:
        # It may have ended while the bus was asked for its PID.
        process = supervisor.processes.newest(pid)
    if process is not None:
        return process.service, process.activation, process.started
    service, activation = supervisor.activation_of(pid) or (None, 0)
    started = supervisor.started(about, activation) if about else clock.now()
    return service, activation, started
