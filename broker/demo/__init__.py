"""The small programs that the descriptors in services.d/ run."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final


def main() -> None:
    """Run the demo service that is named on the command line."""
    programs: Final = {"echo": _echo, "daemon": _daemon, "exits": _exits, "silent": _silent}
    if len(sys.argv) != 2 or sys.argv[1] not in programs:
        sys.exit(f"usage: dbus-activator-demo {'|'.join(programs)}")
    programs[sys.argv[1]]()


def _echo() -> None:
    """Answers."""
    from broker.demo.service import serve  # noqa: PLC0415 - the others need no D-Bus

    serve("org.activation.Demo.Echo")


def _daemon() -> None:
    """Daemonizes as the old books say: fork, a new session, fork; then serves."""
    for step in (os.setsid, lambda: os.chdir("/")):
        if os.fork():
            os._exit(0)
        step()
    from broker.demo.service import serve  # noqa: PLC0415 - faster to fork without it

    serve("org.activation.Demo.Daemon")


def _exits() -> None:
    """Ends before it takes its name."""
    print("the demo service cannot do its work", file=sys.stderr)
    sys.exit(3)


def _silent() -> None:
    """Never takes its name."""
    signal.pause()
