"""The small programs behind the descriptors in services.d/."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final


def main() -> None:
    """Run the demo program named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in _PROGRAMS:
        sys.exit(f"usage: dbus-activator-demo {'|'.join(_PROGRAMS)}")
    _PROGRAMS[sys.argv[1]]()


def _echo() -> None:
    """Answers."""
    from broker.demo.service import serve  # noqa: PLC0415 - the others need no D-Bus

    serve("org.activation.Demo.Echo")


def _daemon() -> None:
    """Daemonizes, then serves."""
    _daemonize()
    from broker.demo.service import serve  # noqa: PLC0415 - faster to fork without it

    serve("org.activation.Demo.Daemon")


def _exits() -> None:
    """Ends before it takes its name."""
    print("the demo service cannot do its work", file=sys.stderr)
    sys.exit(3)


def _silent() -> None:
    """Never takes its name."""
    signal.pause()


def _orphan() -> None:
    """Daemonizes, says its PID, and stays."""
    _daemonize()
    print(os.getpid(), flush=True)
    signal.pause()


def _tour() -> None:
    """Calls the others, on the bus of ``dbus-activator demo``."""
    from broker.demo.tour import main as tour  # noqa: PLC0415 - the others need none of it

    tour()


def _daemonize() -> None:
    """The classic way: fork, a new session, and fork again."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


_PROGRAMS: Final = {
    "echo": _echo,
    "daemon": _daemon,
    "exits": _exits,
    "silent": _silent,
    "orphan": _orphan,
    "tour": _tour,
}
