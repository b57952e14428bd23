"""How fast the leftover processes of a command are ended: by the broker, and by a killer in C.

The broker is measured twice: when the command ends, and its guardian when the broker
itself gets SIGKILL. A round is one of each, in random order, on trees that are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench import programs, table
from tests.bench.figures import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

# How many processes of each kind tree.c makes.
TREES: Final = {"hop": 4, "sleep": 50}
BASE: Final = "C: kill, wait"
KILLED: Final = " (killed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ending", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="2 or more; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a JSON document, with every round")
    options = parser.parse_args(argv)
    try:
        programs.check()
        with tempfile.TemporaryDirectory(prefix="dab-", dir="/tmp") as directory:
            results = _measure(Path(directory), options)
    except programs.BenchError as e:
        print(f"bench: {e}", file=sys.stderr)  # noqa: T201 - a program's complaint
        return 1
    print(json.dumps(results, indent=1) if options.json else table.of_ending(results))  # noqa: T201
    return 0


def _measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)  # noqa: S311 - an order that can be repeated
    about = programs.about()
    tree = programs.compiled(programs.SOURCES / "tree.c", directory)
    killer = str(programs.compiled(programs.SOURCES / "killer.c", directory))
    run = [sys.executable, "-m", "broker", "run", "--stop-timeout=0", f"--services={directory}"]
    starts = {BASE: [killer]}
    for engine in ("dbus-broker", "dbus-daemon"):
        starts[f"broker on {engine}"] = [*run, f"--engine={engine}", "--"]
        starts[f"broker on {engine}{KILLED}"] = [*run, f"--engine={engine}", "--"]
    fifo = directory / "held"
    os.mkfifo(fifo)
    taken: dict[str, dict[str, list[int]]] = {
        each: {title: [] for title in starts} for each in TREES
    }
    for _ in range(options.rounds):
        for kind, count in TREES.items():
            for title in chance.sample(list(starts), k=len(starts)):
                command = [*starts[title], str(tree), kind, str(count), str(fifo)]
                taken[kind][title].append(_end(command, fifo, killed=title.endswith(KILLED)))
    return {
        "about": about,
        "rounds": options.rounds,
        "trees": {
            kind: {title: _spread(sample) for title, sample in samples.items()}
            for kind, samples in taken.items()
        },
    }


def _end(command: list[str], fifo: Path, *, killed: bool) -> int:
    """Nanoseconds from the order to end until the last process of a tree has ended."""
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(held, True)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise programs.BenchError(f"the tree did not come up: {process.wait()}")
            began = time.monotonic_ns()
            if killed:
                process.send_signal(signal.SIGKILL)
            else:
                process.stdin.write("\n")
                process.stdin.flush()
            os.read(held, 1)
            return time.monotonic_ns() - began
    finally:
        os.close(held)


def _spread(sample: Sequence[int]) -> dict[str, Any]:
    about = spread(sample)
    return {
        "median_ns": about.median,
        "quartiles_ns": [about.low, about.high],
        "p95_ns": about.p95,
        "rounds_ns": sample,
    }


if __name__ == "__main__":
    sys.exit(main())
