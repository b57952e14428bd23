"""The records of the broker's children, live and ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from broker.core.clock import NEVER, Instant
from broker.core.exits import UNKNOWN_EXIT, Exit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.core.attribution import Attribution, Origin

# Ended processes that stay readable, for each service.
HISTORY: Final = 16


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a process and its waited-for children have used.

    Attributes:
        user, system: CPU time in microseconds.
        max_rss: the largest resident set in bytes; 0 if unknown.
    """

    user: int
    system: int
    max_rss: int


NO_USAGE: Final = Usage(0, 0, 0)


@dataclass(slots=True, eq=False)
class Process:
    """One child of the broker, from its start or adoption on.

    Attributes:
        serial: its number, never reused as PIDs are.
        ppid: its parent when it was first seen.
        service: the service's name; empty for none.
        activation: the serial of its activation; 0 for none.
        command: the command line as last seen.
    """

    serial: int
    pid: int
    ppid: int
    service: str
    activation: int
    origin: Origin
    attribution: Attribution
    started: Instant
    command: tuple[str, ...]
    exited: Instant = NEVER
    exit: Exit = UNKNOWN_EXIT
    usage: Usage = NO_USAGE

    @property
    def running(self) -> bool:
        """Whether it has not been reaped."""
        return self.exited is NEVER


@dataclass(slots=True)
class Processes:
    """Every live child, and the newest ended ones of each service.

    Attributes:
        reaped: how many children have ended since the start.
    """

    reaped: int = 0
    _serial: int = 0
    _live: dict[int, Process] = field(default_factory=dict)
    _by_activation: dict[int, dict[int, Process]] = field(default_factory=dict)
    _ended: dict[str, deque[Process]] = field(default_factory=dict)
    _usage: dict[str, Usage] = field(default_factory=dict)

    def add(
        self,
        pid: int,
        *,
        ppid: int,
        service: str,
        activation: int,
        origin: Origin,
        attribution: Attribution,
        started: Instant,
        command: tuple[str, ...],
    ) -> Process:
        """Record a new child."""
        assert pid not in self._live, pid
        self._serial += 1
        process = Process(
            self._serial, pid, ppid, service, activation, origin, attribution, started, command
        )
        self._live[pid] = process
        self._by_activation.setdefault(activation, {})[pid] = process
        return process

    def end(self, pid: int, end: Exit, usage: Usage, at: Instant) -> tuple[Process, Process | None]:
        """Record that a child was reaped.

        Returns:
            its record, and the old record that was dropped for it, if any.
        """
        process = self._live.pop(pid)
        siblings = self._by_activation[process.activation]
        del siblings[pid]
        if not siblings:
            del self._by_activation[process.activation]
        self.reaped += 1
        process.exit, process.usage, process.exited = end, usage, at
        total = self.usage(process.service)
        self._usage[process.service] = Usage(
            total.user + usage.user, total.system + usage.system, max(total.max_rss, usage.max_rss)
        )
        ended = self._ended.setdefault(process.service, deque())
        ended.append(process)
        return process, ended.popleft() if len(ended) > HISTORY else None

    def forget(self, service: str) -> Iterable[Process]:
        """Drop the records of a removed service, and return its ended children."""
        self._usage.pop(service, None)
        return self._ended.pop(service, ())

    def usage(self, service: str) -> Usage:
        """The resources that the service's reaped processes have used."""
        return self._usage.get(service, NO_USAGE)

    def get(self, pid: int) -> Process | None:
        """The live child with the PID."""
        return self._live.get(pid)

    def newest(self, pid: int) -> Process | None:
        """The newest record with the PID, live or ended."""
        if pid in self._live:
            return self._live[pid]
        return max(
            (each for each in self.ended() if each.pid == pid),
            key=lambda each: each.serial,
            default=None,
        )

    def live(self) -> Iterable[Process]:
        """Every live child."""
        return self._live.values()

    def ended(self) -> Iterator[Process]:
        """Every ended child that is remembered."""
        for records in self._ended.values():
            yield from records

    def of_activation(self, activation: int) -> Iterable[Process]:
        """The live children of an activation."""
        return self._by_activation.get(activation, {}).values()

    def of_service(self, service: str) -> list[Process]:
        """The live children of a service, of all activations."""
        return [each for each in self._live.values() if each.service == service]

    def __contains__(self, pid: int) -> bool:
        return pid in self._live

    def __len__(self) -> int:
        return len(self._live)


class ProcessEvents(Protocol):
    """The supervisor's events about its records; called from within the event loop."""

    def process_started(self, process: Process) -> None:
        """A child was spawned, or an orphan was found among our children."""

    def process_exited(self, process: Process, forgotten: Process | None) -> None:
        """A child was reaped; the record ``forgotten`` was dropped for it."""

    def activation_emptied(self, activation: int, service: str) -> None:
        """The activation has no process left."""
