"""The events of a bus, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Event:
    """An event; ``time`` in seconds since the epoch, ``service`` empty for none."""

    time: float
    service: str


@dataclass(frozen=True, slots=True)
class ServiceAdded(Event):
    """A descriptor was added."""


@dataclass(frozen=True, slots=True)
class ServiceRemoved(Event):
    """A descriptor was removed, and its service has no process."""


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A service changed its state; states of less than 10 ms may be left out.

    Attributes:
        state: inactive, activating, active, deactivating or failed; empty if unchanged.
        sub_state: the same in detail, such as running, lingering or stop-sigterm.
        result: the reason of a new failure; otherwise empty.
    """

    state: str
    sub_state: str
    result: str


@dataclass(frozen=True, slots=True)
class ProcessStarted(Event):
    """The broker has a new child: ``origin`` is spawned or adopted."""

    pid: int
    ppid: int
    origin: str
    command: str


@dataclass(frozen=True, slots=True)
class ProcessExited(Event):
    """A process has ended: ``returncode`` as in ``subprocess``, -N for signal N."""

    pid: int
    returncode: int
    origin: str
    command: str


@dataclass(frozen=True, slots=True)
class ActivationFailed(Event):
    """A service did not take its name: the D-Bus error, its text, and the Result."""

    error: str
    message: str
    result: str


# The fields after time and service, for each kind in `broker.client.events`.
_KINDS: Final[dict[str, Callable[[float, dict[str, Any]], Event]]] = {
    "added": lambda at, e: ServiceAdded(at, e["Service"]),
    "removed": lambda at, e: ServiceRemoved(at, e["Service"]),
    "state": lambda at, e: StateChanged(
        at, e["Service"], e.get("ActiveState", ""), e["SubState"], e.get("Result", "")
    ),
    "started": lambda at, e: ProcessStarted(
        at, e["Service"], e["PID"], e["PPID"], e["Origin"], e["Command"]
    ),
    "exited": lambda at, e: ProcessExited(
        at, e["Service"], e["PID"], returncode(e["Code"], e["Status"]), e["Origin"], e["Command"]
    ),
    "activation-failed": lambda at, e: ActivationFailed(
        at, e["Service"], e["Error"], e["Message"], e["Result"]
    ),
}


def typed(event: dict[str, Any]) -> Event | None:
    """An event of ``broker.client.events``, typed; None for one without a service."""
    make = _KINDS.get(event["Event"])
    return make(event["Time"] / 1_000_000, event) if make else None


def returncode(code: int, status: int) -> int:
    """The pair of waitid(2) as a return code of ``subprocess``; only for the end of a process."""
    return status if code == 1 else -status
