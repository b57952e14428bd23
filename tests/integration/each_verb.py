"""Verbs in one process that has imported them: a fork for each, and all of them at once.

    each_verb.py < JSON > JSON

It reads a list of command lines with their patience, and prints each one's exit status,
output and diagnostics. To start Python for each would take a quarter of a second.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from broker import cli

# In seconds: what a verb may take before it counts as hanging.
_LONGEST = 30


def _start(argv: list[str], directory: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(_LONGEST)
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    sys.argv = ["dbus-activator", *argv]
    try:
        cli.main()
        status = 0
    except SystemExit as e:
        status = int(e.code or 0)
    except Exception:  # noqa: BLE001 - as Python itself does at its end
        sys.excepthook(*sys.exc_info())
        status = 70
    sys.stdout.flush()
    os._exit(status & 0xFF)


def main() -> None:
    """Run them."""
    asked = json.load(sys.stdin)
    cli.PATIENCE = asked["patience"]  # type: ignore[misc] # before those are imported that have it
    for path in Path(cli.__file__).parent.glob("*.py"):
        importlib.import_module(f"broker.cli.{path.stem}".removesuffix(".__init__"))
    found = []
    with tempfile.TemporaryDirectory() as name:
        started = []
        for number, argv in enumerate(asked["runs"]):
            directory = Path(name) / str(number)
            directory.mkdir()
            started.append((_start(argv, directory), directory))
        for pid, directory in started:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said = [(directory / each).read_text("utf-8") for each in ("out", "err")]
            found.append([status, *said])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
