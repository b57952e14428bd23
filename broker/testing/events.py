"""What happened on a bus, in its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; ``time`` in seconds since the epoch, ``service`` empty for none."""

    time: float
    service: str


@dataclass(frozen=True, slots=True)
class ServiceAdded(Event):
    """A descriptor has come."""


@dataclass(frozen=True, slots=True)
class ServiceRemoved(Event):
    """A descriptor has gone, and nothing of its service runs."""


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A service is in another state; states that lasted for less than 10 ms may be left out.

    Attributes:
        state: inactive, activating, active, deactivating or failed; empty if it is as before.
        sub_state: the same in detail, such as running, lingering or stop-sigterm.
        result: why it failed, where that is new; otherwise empty.
    """

    state: str
    sub_state: str
    result: str


@dataclass(frozen=True, slots=True)
class ProcessStarted(Event):
    """A process is the broker's child: ``origin`` is spawned or adopted."""

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


# The fields behind time and service, of each kind that `broker.client.events` knows.
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
    """An event of ``broker.client.events``; None for one that is about no service."""
    make = _KINDS.get(event["Event"])
    return make(event["Time"] / 1_000_000, event) if make else None


def returncode(code: int, status: int) -> int:
    """Waitid's pair as ``subprocess`` has it; it must be the end of a process."""
    return status if code == 1 else -status
