"""A moment on the two clocks that the interface shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Instant:
    """When something happened, in microseconds; 0 stands for never.

    Attributes:
        realtime: CLOCK_REALTIME, for people; it can be set back.
        monotonic: CLOCK_MONOTONIC, for durations and order.
    """

    realtime: int
    monotonic: int


NEVER: Final = Instant(0, 0)
