"""All objects of a broker at one moment, as its clients get them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from broker.contract import PROCESS, SERVICE

if TYPE_CHECKING:
    from collections.abc import Mapping


class Snapshot(NamedTuple):
    """Properties by object path; values are plain Python ones, not variants."""

    services: dict[str, dict[str, Any]]
    processes: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, objects: Mapping[str, Mapping[str, dict[str, Any]]]) -> Self:
        """What GetManagedObjects has answered."""
        return cls(
            {path: each[SERVICE] for path, each in objects.items() if SERVICE in each},
            {path: each[PROCESS] for path, each in objects.items() if PROCESS in each},
        )
