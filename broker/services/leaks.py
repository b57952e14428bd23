"""Leaked processes: they outlived the service or command that started them.

One rule for ``run``, the interface and the tests. These processes may stay until the
session ends:

- The bus.
- Of a service that owns its name: the owner and its ancestors, the spawned process, and
  the descendants of all these.
- Of such a service's orphans: those with a connection to the bus, those that the service,
  the bus or another of these orphans can still talk to (``core.helpers``), and their
  descendants.
- A service that is still starting: its activation timeout judges it.

Every other process is a leak, except those that are already ending, and the guardians of
brokers, which end with their brokers. An orphan of the command is always a leak: the
process that it could help is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from broker.core.attribution import Origin
from broker.core.helpers import helpers
from broker.core.printable import printable
from broker.core.state import State
from broker.process import clock, guardian, procfs
from broker.process.channels import Channels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from broker.process.procfs import Stat
    from broker.process.supervisor import Supervisor
    from broker.services.units import Unit

# proc_pid_stat(5); the state is the main thread's, which may end before the others.
_STATES: Final = {
    "R": "running",
    "S": "sleeping",
    "D": "disk sleep",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
    "Z": "main thread ended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A process that outlived its service, or the command.

    Attributes:
        service: its name; empty for none.
        origin: spawned, adopted, or child (of another process than the broker).
        program: see ``procfs.program``.
        state: its main thread's, such as sleeping or stopped.
        age: in seconds.
        names: the well-known names that it owns on the bus.
    """

    service: str
    pid: int
    origin: str
    program: str
    command: tuple[str, ...]
    state: str
    age: float
    names: tuple[str, ...] = ()

    @property
    def adopted(self) -> bool:
        """Whether it was re-parented to the broker."""
        return self.origin == Origin.ADOPTED

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether its program matches one of the patterns."""
        return any(fnmatchcase(self.program, pattern) for pattern in patterns)

    def __str__(self) -> str:
        adopted = " (adopted)" if self.adopted else ""
        command = printable(" ".join(self.command))
        names = f"   owns {', '.join(self.names)}" if self.names else ""
        start = f"{self.service or '-'}  pid {self.pid}{adopted}"
        return f"{start}  {command}   age {self.age:.1f}s{names}"


def state_of(about: Stat) -> str:
    """The state of a process's main thread, in a word."""
    return _STATES.get(about.state, about.state)


def find(
    units: Collection[Unit], supervisor: Supervisor, engine_pid: int, names: Mapping[str, int]
) -> list[Leak]:
    """Every leak of a session, parents before their children.

    Args:
        names: the PID behind each name on the bus, unique ones too.
    """
    look = _Look(supervisor, engine_pid, names)
    for unit in units:
        look.welcome_service(unit)
    look.welcome_helpers({each.service.name for each in units if _runs(each)})
    return look.leaks()


def _runs(unit: Unit) -> bool:
    return unit.service.state is State.RUNNING


class _Look:
    """All processes of a session as they are now, and those of them that may stay."""

    def __init__(self, supervisor: Supervisor, engine_pid: int, names: Mapping[str, int]) -> None:
        self._supervisor = supervisor
        self._engine = engine_pid
        self._names = names
        self._alive: dict[int, Stat] = {}
        for pid in supervisor.tree(None):
            about = procfs.stat(pid)
            if about is not None and not about.ended:
                self._alive[pid] = about
        self._welcome = {engine_pid}
        self._services: dict[int, str] = {}

    def welcome_service(self, unit: Unit) -> None:
        """Let a service stay if it owns its name or is starting, without its orphans."""
        service = unit.service
        if service.state not in (State.START, State.RUNNING):
            return
        own = self._supervisor.processes.of_service(service.name)
        newest = [each for each in own if each.activation == unit.activation]
        if service.state is State.START:
            self._welcome.update(each.pid for each in newest)
            return
        self._welcome.update(each.pid for each in newest if each.origin is Origin.SPAWNED)
        # One process may own the names of several services.
        owner = service.main.pid or self._names.get(service.owner, 0)
        if owner in self._alive:
            above = (each for each in procfs.ancestors(owner) if each in self._alive)
            self._welcome.update((owner, *above))
        elif not service.taken:
            # A service that took its name before it daemonized (dnsmasq does) left the
            # connection to a process that cannot be told from its others.
            self._welcome.update(each.pid for each in own)

    def _service_of(self, pid: int) -> str:
        if pid not in self._services:
            self._services[pid] = self._supervisor.service_of(pid) or ""
        return self._services[pid]

    def welcome_helpers(self, services: Collection[str]) -> None:
        """Let those services' orphans stay that are connected to a process that stays."""
        self._descend()
        connected = set(self._names.values())
        orphans = {
            pid: service
            for pid in self._alive
            if pid not in self._welcome and (service := self._service_of(pid)) in services
        }
        self._welcome |= connected & orphans.keys()
        channels = Channels()
        before = 0
        while orphans and len(self._welcome) > before:
            self._descend()
            before = len(self._welcome)
            for service in set(orphans.values()):
                self._welcome |= self._helpers(service, orphans, channels)

    def _helpers(self, service: str, orphans: Mapping[int, str], channels: Channels) -> set[int]:
        staying = [
            pid for pid in self._welcome if pid == self._engine or self._service_of(pid) == service
        ]
        asked = [pid for pid in orphans if orphans[pid] == service and pid not in self._welcome]
        return helpers(
            {pid: channels.held(pid) for pid in asked},
            {pid: channels.held(pid) for pid in staying},
            channels.other,
        )

    def _descend(self) -> None:
        for pid, about in self._alive.items():
            if about.ppid in self._welcome:
                self._welcome.add(pid)

    def leaks(self) -> list[Leak]:
        """All other processes, except those that are ending."""
        now = clock.now().monotonic
        owned: dict[int, list[str]] = {}
        for name in sorted(self._names):
            if not name.startswith(":"):
                owned.setdefault(self._names[name], []).append(name)
        found = []
        for pid, about in self._alive.items():
            if pid in self._welcome or about.comm == guardian.NAME:
                continue
            record = self._supervisor.processes.get(pid)
            leak = Leak(
                service=self._service_of(pid),
                pid=pid,
                origin=str(record.origin) if record else "child",
                program=procfs.program(pid),
                command=procfs.command(pid),
                state=state_of(about),
                age=(now - clock.of_ticks(about.start_ticks).monotonic) / 1_000_000,
                names=tuple(owned.get(pid, ())),
            )
            # Checked last: a process that began to end meanwhile has lost its command line.
            if not procfs.is_ending(pid):
                found.append(leak)
        return found
