"""A service with orphans of several kinds: a program of its own, run where broker is installed.

    helping.py FILE KIND|NAME... NAME

It makes an orphan of a kind, or takes a name, one after the other. The kind and PID of each
orphan are a line of FILE, when it is ready.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from broker.bus import address
from broker.bus.blocking import BlockingConnection
from broker.testing import faulty

if TYPE_CHECKING:
    from collections.abc import Callable

# What is to stay open.
kept: list[object] = []


def orphan(kind: str, work: Callable[[], object] = lambda: None) -> None:
    """A process by two forks, in a session of its own; returns when it has done its work."""
    read, write = os.pipe()
    parents = [os.pidfd_open(os.getpid())]
    first = os.fork()
    if not first:
        os.setsid()
        parents = [os.pidfd_open(os.getpid())]
        if os.fork():
            os._exit(0)
        select.select(parents, [], [])
        kept.append(work())
        with open(sys.argv[1], "a", encoding="ascii") as file:
            file.write(f"{kind} {os.getpid()}\n")
        os.write(write, b"ready")
        for fd in (*parents, read, write):
            os.close(fd)
        signal.pause()
    os.waitpid(first, 0)
    select.select([read], [], [])
    for fd in (*parents, read, write):
        os.close(fd)


def connection() -> BlockingConnection:
    """To the bus, without a name."""
    return BlockingConnection.connect(address.default(os.environ))


def connects() -> None:
    """It has a connection to the bus."""
    orphan("connects", connection)


def daemonizes() -> None:
    """The same, but it has forked since then: the bus knows another PID."""

    def work() -> object:
        made = connection()
        parent = os.pidfd_open(os.getpid())
        if os.fork():
            os._exit(0)
        select.select([parent], [], [])
        os.close(parent)
        return made

    orphan("daemonizes", work)


def pairs() -> None:
    """It has one of two sockets, and the service the other."""
    ours, its = socket.socketpair()
    orphan("pairs", ours.close)
    its.close()
    kept.append(ours)


def careless() -> None:
    """The same, but the service has kept both."""
    ours, its = socket.socketpair()
    orphan("careless", ours.close)
    kept.extend((ours, its))


def untidy() -> None:
    """The same, but the orphan has kept both."""
    ours, its = socket.socketpair()
    orphan("untidy")
    its.close()
    kept.append(ours)


def pipes() -> None:
    """The service reads what it writes."""
    read, write = os.pipe()
    orphan("pipes", lambda: os.close(read))
    os.close(write)


def calls() -> None:
    """It has connected to a socket of the service's."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # an abstract name
    listener.listen()

    def work() -> object:
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(listener.getsockname())
        listener.close()
        return caller

    orphan("calls", work)
    kept.append(listener.accept()[0])
    listener.close()


def chain() -> None:
    """A helper with a helper."""
    ours, its = socket.socketpair()

    def work() -> None:
        ours.close()
        kept.clear()
        pairs()

    orphan("chain", work)
    its.close()
    kept.append(ours)


def inherits() -> None:
    """It has all that the service has, and nothing else."""
    orphan("inherits")


KINDS = {
    each.__name__: each
    for each in (connects, daemonizes, pairs, careless, untidy, pipes, calls, chain, inherits)
}

if __name__ == "__main__":
    for kind in sys.argv[2:-1]:
        if kind in KINDS:
            KINDS[kind]()
        else:
            kept.append(faulty.own(kind))
    faulty.serve(faulty.own(sys.argv[-1]))
