"""A table of descriptors with no place left, in the middle of a session."""

from __future__ import annotations

import itertools
import os
import resource
import signal
from typing import Any

from broker.process import procfs, spare
from tests.process.broker import Broker


def _fill() -> None:
    """Leave no number below our limit free."""
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = next(number for number in itertools.count() if number not in used)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    # The listing's own number may have been below.
    while True:
        try:
            os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return


async def full_table(child: str) -> Any:
    """A daemon is left and found, and a whole tree is signalled."""
    daemon, tree = "org.test.Daemon", "org.test.Tree"
    async with Broker() as broker:
        _fill()
        broker.spawn([child, "daemon", "5", "pause"], daemon)
        await broker.wait(lambda: len(broker.exits(daemon)) == 2)
        await broker.next_turn()
        live = [(each.service, each.attribution) for each in broker.supervisor.processes.live()]
        emptied = len(broker.of_kind("emptied"))
        shell = ["/bin/sh", "-c", '"$@" & wait', "sh", child, "plain", "0", "pause"]
        broker.spawn(shell, tree)
        while len(broker.supervisor.tree(tree)) < 2:
            pass
        signalled = [broker.supervisor.signal(each, signal.SIGTERM) for each in (daemon, tree)]
        await broker.all_emptied(2)
        return {"live": live, "emptied": emptied, "signalled": signalled}


def lent() -> Any:
    """How many places there are within each other, and whether they are there again."""
    spare.reserve()
    _fill()
    found = []
    for _ in range(2):
        with spare.borrowed(), spare.borrowed():
            inner = [procfs.stat(os.getpid()) is not None]
            fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
            inner.append(procfs.stat(os.getpid()) is not None)
            for fd in fds:
                os.close(fd)
        found.append(inner)
    spare.release()
    return [found, procfs.stat(os.getpid()) is not None]
