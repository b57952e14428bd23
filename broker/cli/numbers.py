"""The numbers that options take."""

from __future__ import annotations

import math
from typing import Any, Final

import click

# Some thirty years, which are as good as endless: in microseconds it fits everything that
# a time goes through.
LONGEST: Final = 1e9
_INT_MAX: Final = 2**31 - 1


class _Seconds(click.FloatRange):
    """A time, from 0; it may be inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; nan is among those that ``float`` reads."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            hint = param.opts[-1] if param is not None else None
            raise click.BadParameter("nan is no number of seconds", ctx, param, hint)
        return min(seconds, LONGEST)


SECONDS: Final = _Seconds(min=0)
SOME_SECONDS: Final = _Seconds(min=0, min_open=True)
# File descriptors are of C's type int.
DESCRIPTOR: Final = click.IntRange(min=0, max=_INT_MAX)
