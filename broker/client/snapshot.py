"""All objects of a broker at one moment, in the client's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from broker.core.contract import PROCESS, SERVICE

if TYPE_CHECKING:
    from collections.abc import Mapping


class Activation(NamedTuple):
    """One of a service's activations, from its property Activations.

    Times are in microseconds of CLOCK_REALTIME and of CLOCK_MONOTONIC; 0 is never.
    """

    number: int
    pid: int
    requested_at: int
    requested: int
    started_at: int
    started: int
    owned_at: int
    owned: int
    ended_at: int
    ended: int
    result: str


def activations(service: Mapping[str, Any]) -> list[Activation]:
    """The remembered activations of a service, oldest first; empty with an older broker."""
    return [Activation(*row) for row in service.get("Activations", ())]


class Snapshot(NamedTuple):
    """Properties by object path; values are plain Python ones, not variants."""

    services: dict[str, dict[str, Any]]
    processes: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, objects: Mapping[str, Mapping[str, dict[str, Any]]]) -> Self:
        """From the answer of GetManagedObjects."""
        return cls(
            {path: each[SERVICE] for path, each in objects.items() if SERVICE in each},
            {path: each[PROCESS] for path, each in objects.items() if PROCESS in each},
        )
