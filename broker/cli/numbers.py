"""The numbers that options take."""

from __future__ import annotations

import math
from typing import Any, Final

import click

# Some thirty years: in microseconds it fits everything that a time goes through.
LONGEST: Final = 1e9
_INT_MAX: Final = 2**31 - 1


class _Seconds(click.FloatRange):
    """A time, from 0."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; nan and inf are among those that ``float`` reads."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds) or seconds > LONGEST:
            hint = param.opts[-1] if param is not None else None
            text = f"{seconds:g} is no number of seconds up to {LONGEST:.0f}"
            raise click.BadParameter(text, ctx, param, hint)
        return seconds


SECONDS: Final = _Seconds(min=0)
SOME_SECONDS: Final = _Seconds(min=0, min_open=True)
# File descriptors are of C's type int.
DESCRIPTOR: Final = click.IntRange(min=0, max=_INT_MAX)
