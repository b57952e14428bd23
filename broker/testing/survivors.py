"""Survivors: the leaked processes of a test."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker.bus.driver import DRIVER
from broker.core.attribution import Origin
from broker.errors import RemoteError
from broker.process import procfs
from broker.services.leaks import Leak, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.client.client import Client


class LeakWarning(UserWarning):
    """Processes outlived their services, with the setting ``warn``."""


# The name in tests: they have no command that a process could outlive.
Survivor = Leak


class Survivors:
    """The leaks of a bus: live ones, and those that a reset of the bus has ended.

    Args:
        ignored: patterns of programs (``Leak.matches``).
    """

    def __init__(self, remote: Client, ignored: Sequence[str]) -> None:
        self._remote = remote
        self._ignored = ignored
        self._ended: list[Survivor] = []

    def find(self, grace: float) -> list[Survivor]:
        """Both kinds; raises as ``living``."""
        return [*self._ended, *self.living(grace)]

    def living(self, grace: float) -> list[Survivor]:
        """Every leak that lives for longer than ``grace`` seconds.

        Raises:
            DBusError: the broker does not answer.
        """
        deadline = time.monotonic() + grace
        while True:
            (rows,) = self._remote.ask("ListLeaks")
            leaks = (_of_row(self._remote, row) for row in rows)
            found = [each for each in leaks if not each.matches(self._ignored)]
            # An event may report the end of the last leak. (A process that is not the broker's
            # own child ends without an event: the deadline's look finds that.)
            if not found or time.monotonic() >= deadline:
                break
            self._remote.bus.wait(deadline)
        if not found:
            return []
        names = _names(self._remote)
        return [replace(each, names=names.get(each.pid, ())) for each in found]

    def remember(self, found: Iterable[Survivor]) -> None:
        """Keep these in ``find`` after they have ended: until ``told``."""
        if found:
            alive = {pid for _, pid, *_ in self._remote.ask("ListLeaks")[0]}
            self._ended += [each for each in found if each.pid not in alive]

    def told(self) -> None:
        """Forget the ended ones, which have been reported: the next test did not cause them."""
        self._ended.clear()


def _of_row(remote: Client, row: Sequence[Any]) -> Survivor:
    service, pid, adopted, command, age = row
    about = procfs.stat(pid)
    return Survivor(
        service=service,
        pid=pid,
        origin=Origin.ADOPTED if adopted else _origin(remote, pid),
        program=procfs.program(pid),
        command=tuple(command),
        state=state_of(about) if about else "",
        age=age / 1_000_000,
    )


def _origin(remote: Client, pid: int) -> str:
    try:
        remote.ask("GetProcess", "u", pid)
    except RemoteError:
        return "child"
    return Origin.SPAWNED


def _names(remote: Client) -> dict[int, tuple[str, ...]]:
    """Well-known names on the bus by the PID of their owner."""
    (listed,) = _driver(remote, "ListNames")
    found: dict[int, tuple[str, ...]] = {}
    for name in sorted(listed):
        if name.startswith(":") or name == "org.freedesktop.DBus":
            continue
        try:
            (pid,) = _driver(remote, "GetConnectionUnixProcessID", "s", name)
        except RemoteError:
            continue  # it has gone meanwhile
        found[pid] = (*found.get(pid, ()), name)
    return found


def _driver(remote: Client, member: str, signature: str = "", *arguments: Any) -> list[Any]:
    where = (DRIVER, "/org/freedesktop/DBus", DRIVER)
    return remote.bus.call(*where, member, signature, *arguments, timeout=remote.patience)


def text(survivors: Sequence[Survivor]) -> str:
    """For people: one line each."""
    many = len(survivors)
    head = f"{many} process{'es' * (many > 1)} outlived {'their' if many > 1 else 'its'} service"
    return "\n".join([f"{head}:", *(f"  {each}" for each in survivors)])


def as_json(survivor: Survivor) -> dict[str, Any]:
    """For the events of a failed test."""
    return {
        "Time": time.time_ns() // 1000,
        "Event": "leak",
        "Service": survivor.service,
        "PID": survivor.pid,
        "Command": " ".join(survivor.command),
        "Age": round(survivor.age, 3),
        "Names": list(survivor.names),
    }
