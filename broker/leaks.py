"""What is alive and has no business to be: one rule, for ``run``, the interface and the tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.core.printable import printable
from broker.core.state import State
from broker.process import clock, procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.process.supervisor import Supervisor
    from broker.units import Unit


@dataclass(frozen=True, slots=True)
class Leak:
    """A process that outlived its service, or the command; ``age`` in seconds."""

    service: str
    pid: int
    adopted: bool
    command: tuple[str, ...]
    age: float

    def __str__(self) -> str:
        adopted = " (adopted)" if self.adopted else ""
        command = printable(" ".join(self.command))
        return f"{self.service or '-'}  pid {self.pid}{adopted}  {command}   age {self.age:.1f}s"


def find(units: Iterable[Unit], supervisor: Supervisor, engine_pid: int) -> list[Leak]:
    """Every leak of a session, parents before their children.

    A service that owns its name may stay until the session ends, with what it
    has under it. Everything else outlived the command or its service.
    """
    welcome = {engine_pid}
    for unit in units:
        if unit.service.state is State.RUNNING:
            # One that took its name before it daemonized (dnsmasq does) has left the
            # connection to a process that nobody can tell from its others.
            main = unit.service.main.pid
            welcome |= {main} if main else set(supervisor.tree(unit.service.name))
    found = []
    for pid in supervisor.tree(None):
        about = procfs.stat(pid)
        if about is None or about.ended:
            continue
        if pid in welcome or about.ppid in welcome:
            welcome.add(pid)
            continue
        age = clock.now().monotonic - clock.of_ticks(about.start_ticks).monotonic
        found.append(
            Leak(
                service=supervisor.service_of(pid) or "",
                pid=pid,
                adopted=about.ppid == os.getpid(),
                command=procfs.command(pid),
                age=age / 1_000_000,
            )
        )
    return found
