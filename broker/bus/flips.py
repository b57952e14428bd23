"""Detects names that change owners too often to follow."""

from __future__ import annotations

from collections import Counter
from typing import Final

# In seconds: the period of a count, and the time for which a name is not followed.
PERIOD: Final = 1.0
# A total of changes per period, of all names, with a negligible cost.
_ALL: Final = 1000
# Changes of one name: more than any service causes, even one that fails at each start.
_ONE: Final = 20


class Flips:
    """Counts changes by name: a client can cause tens of thousands in a second."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._end = 0.0

    def too_many(self, name: bytes, now: float) -> bool:
        """Count a change of a name; whether it belongs to a flood.

        Args:
            now: on any clock, in seconds.
        """
        if now >= self._end:
            self._counts.clear()
            self._end = now + PERIOD
        self._counts[name] += 1
        return self._counts[name] > _ONE and self._counts.total() > _ALL
