"""Which activations have no process left, found out after deaths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.process import procfs, reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Emptied:
    """Finds the activations that have become empty.

    The dead may have left orphans, which are our children since before their parent
    became a zombie. They are looked at a batch in a turn of the loop, since there may be
    thousands; the newest first, since what dies last keeps an activation from being
    looked at again.

    Args:
        has_processes: whether processes of an activation are on record.
        adopt: puts a child on record that is a new orphan; False if it was known before.
    """

    def __init__(self, has_processes: Callable[[int], bool], adopt: Callable[[int], bool]) -> None:
        self._has_processes = has_processes
        self._adopt = adopt
        # Activations to their services: those with deaths since the last list was made,
        self._had_deaths: dict[int, str] = {}
        # those on that list, and the children to be looked at before it is judged.
        self._maybe_empty: dict[int, str] = {}
        self._orphans_to_check: list[int] = []

    def note_death(self, activation: int, service: str) -> None:
        """A process of the activation was reaped."""
        self._had_deaths[activation] = service

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be found out."""
        return not self._maybe_empty and not self._had_deaths

    def find(self) -> Iterator[tuple[int, str]]:
        """The activations that are empty for certain, each with its service."""
        if not self._maybe_empty:
            self._maybe_empty, self._had_deaths = self._had_deaths, {}
            self._orphans_to_check = procfs.children() if self._seem_empty() else []
        empty = self._seem_empty()
        looks = reaper.BATCH
        while empty and self._orphans_to_check and looks:
            if self._adopt(self._orphans_to_check.pop()):
                looks -= 1
                empty = self._seem_empty()
        if empty and self._orphans_to_check:
            return
        for activation in list(self._maybe_empty):
            service = self._maybe_empty.pop(activation)
            if activation in empty and activation not in self._had_deaths:
                yield activation, service

    def _seem_empty(self) -> set[int]:
        return {each for each in self._maybe_empty if not self._has_processes(each)}
