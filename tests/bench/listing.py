"""How long ``dbus-activator list`` takes, beside busctl's list and the interpreter's own start.

The goal is to take less than twice the time of busctl, which is a program in C, plus the
start that any program in Python has.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import broker
from tests.bench import buses, programs, table
from tests.bench.figures import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICES: Final = 300
OURS: Final = "dbus-activator list"
THEIRS: Final = "busctl list --activatable"
START: Final = "python -c pass"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.listing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="2 or more; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a JSON document, with every round")
    options = parser.parse_args(argv)
    try:
        programs.check()
        results = _measure(options)
    except programs.BenchError as e:
        print(f"bench: {e}", file=sys.stderr)  # noqa: T201 - a program's complaint
        return 1
    print(json.dumps(results, indent=1) if options.json else table.of_listing(results))  # noqa: T201
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    about = programs.about()
    # As every installer does; an editable install has bytecode of what has been run.
    compileall.compile_dir(str(Path(broker.__file__).parent), quiet=1)
    chance = random.Random(options.seed)  # noqa: S311 - an order that can be repeated
    found = {}
    with buses.place(SERVICES) as place:
        for kind in buses.KINDS:
            if kind.engine:
                with buses.bus(kind, place) as bus:
                    found[kind.title] = _on(bus.address, options.rounds, chance)
    return {"about": about, "rounds": options.rounds, "services": SERVICES, "buses": found}


def _on(address: str, rounds: int, chance: random.Random) -> dict[str, Any]:
    commands = {
        THEIRS: ["busctl", f"--address={address}", "list", "--activatable"],
        START: [sys.executable, "-c", "pass"],
        OURS: [str(Path(sys.executable).parent / "dbus-activator"), "list"],
    }
    # Whoever develops in Python may have told it to write no bytecode, and to buffer nothing.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environ["DBUS_SESSION_BUS_ADDRESS"] = address
    taken: dict[str, list[int]] = {title: [] for title in commands}
    for _ in range(rounds):
        for title in chance.sample(list(commands), k=len(commands)):
            began = time.monotonic_ns()
            subprocess.run(commands[title], check=True, env=environ, stdout=subprocess.DEVNULL)
            taken[title].append(time.monotonic_ns() - began)
    spreads = {title: spread(sample) for title, sample in taken.items()}
    goal = 2 * spreads[THEIRS].median + spreads[START].median
    return {
        "programs": {
            title: {"median_ns": each.median, "quartiles_ns": [each.low, each.high]}
            for title, each in spreads.items()
        },
        "ratio": {
            "value": spreads[OURS].median / goal,
            "goal": 1.0,
            "met": spreads[OURS].median < goal,
        },
        "rounds_ns": taken,
    }


if __name__ == "__main__":
    sys.exit(main())
