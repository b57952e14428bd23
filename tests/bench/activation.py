"""Cold activation: the broker, on both engines, against dbus-daemon's own.

One run measures all of them, a round at a time in random order, so that what
the machine does besides hits all alike. A missed goal is reported and is no
failure: that would make a busy machine a broken one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import random
import statistics
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from . import programs
from .buses import KINDS, bus, client, place
from .figures import ratio, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .buses import Kind, Place

# Largest ratio of medians, broker to dbus-daemon alone.
RATIO_GOALS: Final = {"broker/dbus-broker": 0.75, "broker/dbus-daemon": 1.0}
# Largest resident set of the broker with so many services running, in MB.
MEMORY_GOAL: Final = 30.0
SERVICES: Final = 100
WARM_UP: Final = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(argv)
    try:
        programs.check()
        with place(max(options.rounds + WARM_UP, SERVICES)) as at:
            results = _measure(at, options)
    except programs.MissingError as e:
        print(f"bench: {e}", file=sys.stderr)  # noqa: T201 - a program's complaint
        return 1
    print(json.dumps(results, indent=1) if options.json else _table(results))  # noqa: T201
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
    about = _about()
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


def _about() -> dict[str, Any]:
    return {
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "engines": [programs.version("dbus-daemon"), programs.version("dbus-broker")],
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


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
        "rss_bytes": resident,
        "goal_mb": MEMORY_GOAL,
        "met": resident <= MEMORY_GOAL * 1e6,
    }


# -- for people --------------------------------------------------------------------


def _table(results: Mapping[str, Any]) -> str:
    about = results["about"]
    rounds = len(results["activation"][KINDS[0].key]["rounds_ns"])
    lines = [
        (
            f"{about['user']}, {', '.join(about['engines'])}, {about['kernel']}, "
            f"Python {about['python']}, {about['cpus']} CPUs, load {about['load']:.2f}"
        ),
        "",
        f"cold activation, {rounds} rounds: a call to an unowned name until its answer, in ms",
        (f"{'':24}{'median':>8}{'quartiles':>16}{'95 %':>8}{'ratio':>8}{'95 % conf.':>14}  goal"),
    ]
    for kind in KINDS:
        taken = results["activation"][kind.key]
        low, high = (each / 1e6 for each in taken["quartiles_ns"])
        line = (
            f"{kind.title:24}{taken['median_ns'] / 1e6:8.2f}{f'{low:.2f} - {high:.2f}':>16}"
            f"{taken['p95_ns'] / 1e6:8.2f}"
        )
        if kind.key in results["ratio"]:
            judged = results["ratio"][kind.key]
            low, high = judged["interval_95"]
            line += f"{judged['value']:8.2f}{f'{low:.2f} - {high:.2f}':>14}{_goal(judged)}"
        lines.append(line)
    lines += ["", f"resident memory of the broker with {SERVICES} services running, in MB"]
    for kind in KINDS:
        if kind.key in results["memory"]:
            judged = results["memory"][kind.key]
            lines.append(f"{kind.title:24}{judged['rss_bytes'] / 1e6:8.1f}{_goal(judged):>48}")
    lines += ["", "start until the address is printed, in ms"]
    for kind in KINDS:
        taken = results["startup"][kind.key]
        starts = taken["starts_s"]
        lines.append(
            f"{kind.title:24}{taken['median_s'] * 1e3:8.1f}"
            f"{f'{min(starts) * 1e3:.1f} - {max(starts) * 1e3:.1f}':>16}"
        )
    return "\n".join(lines)


def _goal(judged: Mapping[str, Any]) -> str:
    goal = judged.get("goal", judged.get("goal_mb"))
    return f"  <= {goal:g} {'met' if judged['met'] else 'missed'}"


if __name__ == "__main__":
    sys.exit(main())
