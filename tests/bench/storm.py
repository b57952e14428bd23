"""A storm of orphans below the broker, on both engines, and below a reaper in C.

The same program makes the storm and takes the time, as a child of each of them.
They are started once and stay; a round is a storm below each, in random order.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench import programs, table
from tests.bench.buses import resident
from tests.bench.figures import ratio, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODES: Final = ("stream", "burst")
# What others are compared with.
BASE: Final = "C: wait4"
# PIDs are few, and shared with the rest of the machine.
ALIVE: Final = 7000


@dataclass(frozen=True, slots=True)
class Reaper:
    """A running reaper, with a shell below it that makes storms when it is told to."""

    process: subprocess.Popen[str]

    def storm(self, mode: str) -> int:
        """Nanoseconds until the last orphan was reaped, as storm.c takes them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mode}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise programs.BenchError(f"a reaper ended: {self.process.wait()}")
        return int(answer)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(argv)
    # As after Ctrl-C: the reapers are ended and their directory is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        programs.check()
        with tempfile.TemporaryDirectory(prefix="dab-", dir="/tmp") as directory:
            results = _measure(Path(directory), options)
    except programs.BenchError as e:
        print(f"bench: {e}", file=sys.stderr)  # noqa: T201 - a program's complaint
        return 1
    print(json.dumps(results, indent=1) if options.json else table.of_storm(results))  # noqa: T201
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.storm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="2 or more; default: %(default)s")
    parser.add_argument("--count", type=int, default=20_000, help="orphans; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a JSON document, with every round")
    return parser.parse_args(argv)


def _commands(directory: Path) -> dict[str, list[str]]:
    """How each is started, by its title; what it is to run comes after that."""
    reaper = str(programs.compiled(programs.SOURCES / "reaper.c", directory))
    broker = [sys.executable, "-m", "broker", "run", f"--services={directory}"]
    return {
        BASE: [reaper],
        "C: /proc/PID/stat, wait4": [reaper, "-s"],
        "broker on dbus-broker": [*broker, "--engine=dbus-broker", "--"],
        "broker on dbus-daemon": [*broker, "--engine=dbus-daemon", "--"],
    }


def _measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)  # noqa: S311 - an order that can be repeated
    about = programs.about()
    storm = programs.compiled(programs.SOURCES.parent / "integration" / "storm.c", directory)
    command = f"{storm} $mode {options.count} {ALIVE} $PPID /dev/null || exit"
    script = f"while read mode; do {command}; done"
    taken: dict[str, dict[str, list[int]]] = {mode: {} for mode in MODES}
    memory = {}
    with ExitStack() as stack:
        reapers = {
            title: stack.enter_context(_running([*start, "/bin/sh", "-c", script]))
            for title, start in _commands(directory).items()
        }
        for each in reapers.values():
            for mode in MODES:
                each.storm(mode)
        before = {title: resident(each.process.pid) for title, each in reapers.items()}
        for _ in range(options.rounds):
            for mode in MODES:
                for title in chance.sample(list(reapers), k=len(reapers)):
                    taken[mode].setdefault(title, []).append(reapers[title].storm(mode))
        memory = {
            title: [before[title], resident(each.process.pid)] for title, each in reapers.items()
        }
    return {
        "about": about,
        "count": options.count,
        "rounds": options.rounds,
        "resident": memory,
        **{mode: _judged(taken[mode], list(reapers), options.count) for mode in MODES},
    }


@contextmanager
def _running(command: list[str]) -> Iterator[Reaper]:
    """Start one; it ends when its shell's input does."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DBUS_")}
    with subprocess.Popen(
        command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Reaper(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _judged(rounds: dict[str, list[int]], titles: Sequence[str], count: int) -> dict[str, Any]:
    rates = {title: [count * 1e9 / each for each in rounds[title]] for title in titles}
    found: dict[str, Any] = {}
    for title, sample in rates.items():
        about = spread(sample)
        found[title] = {
            "median": about.median,
            "quartiles": [about.low, about.high],
            "rounds_ns": rounds[title],
        }
        if title != BASE:
            compared = ratio(sample, rates[BASE])
            found[title] |= {
                "ratio": compared.value,
                "interval_95": [compared.low, compared.high],
            }
    return found


if __name__ == "__main__":
    sys.exit(main())
