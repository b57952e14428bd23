"""A service that fails on order: a program of its own, started by its path.

    faulty.py NAME FAULT [VALUE]

Not by ``python -m``: that would import the package around it, and pytest with it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from broker.bus import address
from broker.bus.blocking import BlockingConnection
from broker.errors import Disconnected

if TYPE_CHECKING:
    from collections.abc import Callable

_DO_NOT_QUEUE: Final = 4
_LINE: Final = "x" * 70


def own(name: str) -> BlockingConnection:
    """Connect and take a name."""
    bus = BlockingConnection.connect(address.default(os.environ))
    bus.call_bus("RequestName", "su", name, _DO_NOT_QUEUE)
    return bus


def serve(bus: BlockingConnection) -> None:
    """Refuse every call, until the bus goes."""
    try:
        while True:
            bus.signal(None)
    except Disconnected:
        sys.exit(0)


def exits(_name: str, status: str) -> None:
    """Exit before the name is taken."""
    sys.exit(int(status))


def dies(_name: str, number: str) -> None:
    """End by a signal before the name is taken."""
    if int(number) != signal.SIGKILL:
        signal.signal(int(number), signal.SIG_DFL)  # Python ignores some, and handles SIGINT
    signal.raise_signal(int(number))


def hangs(_name: str, _value: str) -> None:
    """Do nothing, for ever."""
    signal.pause()


def delay(name: str, seconds: str) -> None:
    """Take the name late."""
    time.sleep(float(seconds))
    serve(own(name))


def takes(_name: str, other: str) -> None:
    """Take another name."""
    serve(own(other))


def daemonizes(name: str, _value: str) -> None:
    """Fork twice, as daemon(3) does, and take the name as an orphan."""
    parents = [os.pidfd_open(os.getpid())]
    if os.fork():
        os._exit(0)
    os.setsid()
    parents.append(os.pidfd_open(os.getpid()))
    if os.fork():
        os._exit(0)
    # A daemon does not wait for its parents' exits, and may take its name before it is an orphan.
    for fd in parents:
        select.select([fd], [], [])
        os.close(fd)
    serve(own(name))


def forks_late(name: str, _value: str) -> None:
    """Take the name, then daemonize: the process that owned it is gone."""
    bus = own(name)
    for _ in range(2):
        if os.fork():
            os._exit(0)
        os.setsid()
    serve(bus)


def leaves_child(name: str, _value: str) -> None:
    """Take the name, and leave an orphan in a session of its own."""
    first = os.fork()
    if not first:
        os.setsid()
        if not os.fork():
            signal.pause()
        os._exit(0)
    os.waitpid(first, 0)
    serve(own(name))


def drops_name(name: str, _value: str) -> None:
    """Take the name, give it up, and stay."""
    bus = own(name)
    bus.call_bus("ReleaseName", "s", name)
    serve(bus)


def floods(name: str, lines: str) -> None:
    """Write many lines, on both outputs, then take the name."""
    for number in range(int(lines)):
        print(f"{number} {_LINE}", file=(sys.stdout, sys.stderr)[number % 2])
    sys.stdout.flush()
    serve(own(name))


FAULTS: Final[dict[str, Callable[[str, str], None]]] = {
    each.__name__: each
    for each in (
        exits,
        dies,
        hangs,
        delay,
        takes,
        daemonizes,
        forks_late,
        leaves_child,
        drops_name,
        floods,
    )
}


def command(name: str, fault: str, value: object) -> list[str]:
    """The command line of the service."""
    # -P: this directory has modules called `events` and `service`.
    return [sys.executable, "-P", __file__, name, fault, str(value)]


if __name__ == "__main__":
    FAULTS[sys.argv[2]](sys.argv[1], sys.argv[3])
