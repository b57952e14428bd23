"""What the measured numbers say."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample's median, its quartiles, and what 95 % are below."""

    median: float
    low: float
    high: float
    p95: float


def spread(sample: Sequence[float]) -> Spread:
    """Of a sample with two values or more."""
    cuts = statistics.quantiles(sample, n=20, method="inclusive")
    return Spread(cuts[9], cuts[4], cuts[14], cuts[18])


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two medians, with a 95 % confidence interval."""

    value: float
    low: float
    high: float


def ratio(sample: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of the medians of two samples that were taken in the same rounds.

    The interval is a bootstrap over rounds: what slows the machine down for a
    while slows both sides of a round, and must not count as a difference.
    """
    chance = random.Random(0)  # noqa: S311 - no secret; the same input gives the same figures
    pairs = list(zip(sample, base, strict=True))
    found = []
    for _ in range(_RESAMPLES):
        ours, theirs = zip(*chance.choices(pairs, k=len(pairs)), strict=True)
        found.append(statistics.median(ours) / statistics.median(theirs))
    cuts = statistics.quantiles(found, n=40, method="inclusive")
    return Ratio(statistics.median(sample) / statistics.median(base), cuts[0], cuts[-1])
