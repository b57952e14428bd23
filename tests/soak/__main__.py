"""A broker under a random load for any time: does anything leak, hang, or lie?

Exit status 0 if every check was good, 1 if one was not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.integration import buses
from tests.integration.buses import Installation, Place
from tests.soak.report import report
from tests.soak.soak import Plan, Soak

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINES: Final = ("dbus-broker", "dbus-daemon")
WARM_UP: Final = 60.0
# What grows by more than a tenth in a long run has no bound; the caches that do
# have one are full after a minute.
GROWTH: Final = 1.10


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    options = _options(argv)
    engines = ENGINES if options.engine == "both" else (options.engine,)
    seconds = options.minutes * 60
    plan = Plan(seconds, min(WARM_UP, seconds / 3), GROWTH, options.seed)
    print(f"seed {plan.seed}, {options.minutes:g} minutes, {', '.join(engines)}", flush=True)  # noqa: T201
    with ExitStack() as stack:
        places = [_place(stack, engine) for engine in engines]
        soaks = [Soak(place, plan) for place in places]
        asyncio.run(_run(soaks))
        for place, soak in zip(places, soaks, strict=True):
            print(report(place.engine, soak))  # noqa: T201
    return int(any(any(soak.record.failures.values()) for soak in soaks))


async def _run(soaks: Sequence[Soak]) -> None:
    async with asyncio.TaskGroup() as group:
        for soak in soaks:
            group.create_task(soak.run())


def _place(stack: ExitStack, engine: str) -> Place:
    user = Installation(Path(sys.executable).parent / "dbus-activator")
    directory = Path(tempfile.mkdtemp(prefix="dat-bin-", dir="/tmp"))
    stack.callback(buses.remove, directory)
    path = buses.short_directory(user)
    stack.callback(buses.remove, path)
    return Place(path, user, buses.build_service(directory), engine)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)g")
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both")
    seed = int.from_bytes(os.urandom(4))
    parser.add_argument("--seed", type=int, default=seed, help="of a run to be repeated")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
