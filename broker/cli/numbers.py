"""The types of numeric options."""

from __future__ import annotations

import math
from typing import Any, Final

import click

from broker.core.digits import decimal
from broker.core.printable import quoted

# Some thirty years, practically infinite: in microseconds this still fits every type on the
# way of a time.
LONGEST: Final = 1e9
_INT_MAX: Final = 2**31 - 1


class _Seconds(click.FloatRange):
    """A time, from 0; it may be inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; without nan, which ``float`` accepts."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            hint = param.opts[-1] if param is not None else None
            raise click.BadParameter("nan is not a number of seconds", ctx, param, hint)
        return min(seconds, LONGEST)


def start_limit(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, float]:
    """BURST/SECONDS as the two numbers, the callback of an option; (0, 0) for none."""
    if value == "0":
        return 0, 0.0
    count, _, interval = value.partition("/")
    burst = decimal(count, _INT_MAX)
    try:
        seconds = float(interval)
    except ValueError:
        seconds = math.nan
    if burst is None or not seconds > 0:
        reason = f"{quoted(value)} is not BURST/SECONDS, such as 5/10, or 0 for none"
        raise click.BadParameter(reason, ctx, param)
    return burst, min(seconds, LONGEST)


SECONDS: Final = _Seconds(min=0)
SOME_SECONDS: Final = _Seconds(min=0, min_open=True)
# File descriptors are of C's type int.
DESCRIPTOR: Final = click.IntRange(min=0, max=_INT_MAX)
