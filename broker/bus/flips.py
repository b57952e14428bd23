"""Names that change owners too often to be followed."""

from __future__ import annotations

from collections import Counter
from typing import Final

# In seconds: what is counted together, and how long a name is not followed.
PERIOD: Final = 1.0
# Changes of all names in a period that cost nothing to speak of.
_ALL: Final = 1000
# And of one name that no service brings about, even one that fails at each start.
_ONE: Final = 20


class Flips:
    """Counts changes by name: a client can bring about tens of thousands in a second."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._end = 0.0

    def too_many(self, name: bytes, now: float) -> bool:
        """Count a change of a name; whether it is one of a flood.

        Args:
            now: on any clock, in seconds.
        """
        if now >= self._end:
            self._counts.clear()
            self._end = now + PERIOD
        self._counts[name] += 1
        return self._counts[name] > _ONE and self._counts.total() > _ALL
