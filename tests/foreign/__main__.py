"""Test suites of others on a bus of ours in dbus-daemon's place, beside dbus-daemon itself.

Needs the packages dbus-tests and libglib2.0-tests; python-dbusmock's own suite is in its
source (pip download --no-deps --no-binary :all: python-dbusmock), and needs python3-dbus,
python3-gi and python3-dbusmock.

Exit status 1 if a case is good with dbus-daemon but not with ours, and known.py has no reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.process import kernel
from tests.foreign import known, suites
from tests.foreign.buses import BARE, END, ENGINES, Bus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.foreign.buses import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    options = _options(argv)
    programs = [*suites.libdbus(), *suites.glib()]
    if options.dbusmock:
        programs += suites.dbusmock(options.dbusmock.resolve())
    programs = [each for each in programs if fnmatch.fnmatch(each.name, options.only)]
    if not programs:
        print("nothing to run: see --help for what to install", file=sys.stderr)  # noqa: T201
        return 2
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    kernel.become_subreaper()
    unknown = 0
    with tempfile.TemporaryDirectory(prefix="datf-", dir="/tmp") as links:
        Path(links).chmod(0o755)  # some start a bus as another user
        buses = []
        for kind in (BARE, *(ENGINES if options.engine == "both" else (options.engine,))):
            directory = Path(links) / kind
            directory.mkdir()
            buses.append(Bus(kind, directory))
        for program in programs:
            bare = buses[0].run(program)
            good = [case for case, outcome in bare.cases.items() if outcome == "ok"]
            print(f"{program.name}: {len(good)} of {len(bare.cases)} with dbus-daemon", flush=True)  # noqa: T201
            for bus in buses[1:]:
                outcome = bus.run(program, good)
                unknown += _compare(bus.kind, program.name, good, outcome)
                if options.output:
                    file = options.output / f"{program.name.replace('/', '-')}.{bus.kind}"
                    file.write_text(outcome.output)
    print(f"{unknown} unknown differences")  # noqa: T201
    return int(unknown > 0)


def _compare(engine: str, name: str, good: Sequence[str], ours: Outcome) -> int:
    """Print what is good with dbus-daemon alone; returns how much of it is unknown."""
    found = {case: ours.cases.get(case, "missing") for case in good}
    bad = {case: outcome for case, outcome in found.items() if outcome != "ok"}
    if len(bad) > 1:
        bad.pop(END, None)  # it follows from the others
    unknown = 0
    for case, outcome in bad.items():
        why = known.reason(engine, f"{name}: {case}")
        unknown += why is None
        print(f"  {engine:<11} {outcome:<8} {case}  {why or ''}", flush=True)  # noqa: T201
    return unknown


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.foreign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dbusmock", metavar="DIR", type=Path, help="python-dbusmock's source")
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="such as libdbus/test-fd*")
    parser.add_argument("--output", metavar="DIR", type=Path, help="what the programs say")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
