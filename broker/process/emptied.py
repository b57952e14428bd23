"""Finds the activations that have become empty by the deaths of their processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.process import procfs, reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Emptied:
    """Finds the activations that have become empty.

    The dead may have left orphans, which became our children before their parent became
    a zombie. There may be thousands, so each turn of the loop looks at a batch of them; the
    newest first, since the last survivor of an activation saves it another look.

    Args:
        has_processes: whether processes of an activation are on record.
        adopt: puts a new orphan among our children on record; False if it was known before.
    """

    def __init__(self, has_processes: Callable[[int], bool], adopt: Callable[[int], bool]) -> None:
        self._has_processes = has_processes
        self._adopt = adopt
        # Activations, each with its service: those with deaths since the last list was made,
        self._had_deaths: dict[int, str] = {}
        # and those on that list; then the children to check before it is judged.
        self._maybe_empty: dict[int, str] = {}
        self._orphans_to_check: list[int] = []

    def note_death(self, activation: int, service: str) -> None:
        """A process of the activation was reaped."""
        self._had_deaths[activation] = service

    @property
    def settled(self) -> bool:
        """Whether no check is left to do."""
        return not self._maybe_empty and not self._had_deaths

    def find(self) -> Iterator[tuple[int, str]]:
        """The activations that are certainly empty, each with its service."""
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
