"""Cold activation: the broker, on both engines, against dbus-daemon's own.

One run measures all of them, a round at a time in random order, so that what
the machine does besides hits all alike. A missed goal is reported and is no
failure: that would make a busy machine a broken one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from tests.bench import programs, table
from tests.bench.buses import KINDS, bus, client, place
from tests.bench.figures import ratio, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.buses import Kind, Place

# Largest ratio of medians, broker to dbus-daemon alone.
RATIO_GOALS: Final = {"broker/dbus-broker": 0.75, "broker/dbus-daemon": 1.0}
# Largest resident set of the broker with so many services running, in MB.
MEMORY_GOAL: Final = 30.0
SERVICES: Final = 100
WARM_UP: Final = 1
# Activations in a row, so many times, after so many seconds of quiet: what the first
# leaves to be done must not be on the second's way.
IN_A_ROW: Final = 3
ROWS: Final = 20
QUIET: Final = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(argv)
    # As after Ctrl-C: the buses are ended and their directory is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        programs.check()
        with place(max(options.rounds + WARM_UP, SERVICES, ROWS * IN_A_ROW)) as at:
            results = _measure(at, options)
    except programs.BenchError as e:
        print(f"bench: {e}", file=sys.stderr)  # noqa: T201 - a program's complaint
        return 1
    print(json.dumps(results, indent=1) if options.json else table.of(results))  # noqa: T201
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.activation", description=__doc__)
    parser.add_argument("--rounds", type=_at_least_two, default=200, help="default: %(default)s")
    parser.add_argument("--starts", type=_at_least_two, default=7, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a JSON document, with every round")
    return parser.parse_args(argv)


def _at_least_two(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError("2 or more")
    return int(text)


def _measure(at: Place, options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)  # noqa: S311 - an order that can be repeated
    about = programs.about()
    rounds = _activation(at, options.rounds, chance)
    base = rounds[KINDS[0].key]
    return {
        "about": about,
        "activation": {
            key: {
                "median_ns": spread(sample).median,
                "quartiles_ns": [spread(sample).low, spread(sample).high],
                "p95_ns": spread(sample).p95,
                "rounds_ns": sample,
            }
            for key, sample in rounds.items()
        },
        "ratio": {key: _judged_ratio(rounds[key], base, goal) for key, goal in RATIO_GOALS.items()},
        "in_a_row": {
            key: [statistics.median(place) for place in sample]
            for key, sample in _in_a_row(at, chance).items()
        },
        "memory": {kind.key: _judged_memory(_memory(kind, at)) for kind in KINDS if kind.engine},
        "startup": {
            key: {"median_s": statistics.median(sample), "starts_s": sample}
            for key, sample in _startup(at, options.starts, chance).items()
        },
    }


def _activation(at: Place, count: int, chance: random.Random) -> dict[str, list[int]]:
    """Nanoseconds of each round, by the bus's key."""
    taken: dict[str, list[int]] = {kind.key: [] for kind in KINDS}
    with ExitStack() as stack:
        clients = []
        for kind in KINDS:
            running = stack.enter_context(bus(kind, at))
            clients.append((kind.key, stack.enter_context(client(running, at))))
        for name in at.names[: count + WARM_UP]:
            for key, each in chance.sample(clients, k=len(clients)):
                taken[key].append(each.ask(f"cycle {name}"))
    return {key: sample[WARM_UP:] for key, sample in taken.items()}


def _in_a_row(at: Place, chance: random.Random) -> dict[str, list[list[int]]]:
    """Nanoseconds of the first in a row, of the second …, by the bus's key."""
    taken: dict[str, list[list[int]]] = {kind.key: [[] for _ in range(IN_A_ROW)] for kind in KINDS}
    with ExitStack() as stack:
        clients = []
        for kind in KINDS:
            running = stack.enter_context(bus(kind, at))
            clients.append((kind.key, stack.enter_context(client(running, at))))
        for first in range(0, ROWS * IN_A_ROW, IN_A_ROW):
            for key, each in chance.sample(clients, k=len(clients)):
                time.sleep(QUIET)
                for sample, name in zip(taken[key], at.names[first:], strict=False):
                    sample.append(each.ask(f"keep {name}"))
    return taken


def _memory(kind: Kind, at: Place) -> int:
    with bus(kind, at) as running, client(running, at) as caller:
        for name in at.names[:SERVICES]:
            caller.ask(f"keep {name}")
        caller.ask("settle")
        return running.resident()


def _startup(at: Place, count: int, chance: random.Random) -> dict[str, list[float]]:
    """Seconds of each start, by the bus's key."""
    taken: dict[str, list[float]] = {kind.key: [] for kind in KINDS}
    for _ in range(count):
        for kind in chance.sample(KINDS, k=len(KINDS)):
            with bus(kind, at) as running:
                taken[kind.key].append(running.startup)
    return taken


def _judged_ratio(sample: Sequence[int], base: Sequence[int], goal: float) -> dict[str, Any]:
    found = ratio(sample, base)
    return {
        "value": found.value,
        "interval_95": [found.low, found.high],
        "goal": goal,
        "met": found.value <= goal,
    }


def _judged_memory(resident: int) -> dict[str, Any]:
    return {
        "services": SERVICES,
        "rss_mb": resident / 1e6,
        "goal": MEMORY_GOAL,
        "met": resident <= MEMORY_GOAL * 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
