"""What outlived its service when a test was over."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.bus.driver import DRIVER
from broker.errors import RemoteError
from broker.leaks import Leak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.remote import Remote


class LeakWarning(UserWarning):
    """Processes outlived their services, and the setting is to say so and go on."""


@dataclass(frozen=True, slots=True)
class Survivor(Leak):
    """A process that outlived its service; ``names`` are those that it owns on the bus."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        owned = f"   owns {', '.join(self.names)}" if self.names else ""
        # Not super(): the class that slots=True makes is another one than it looks for.
        return Leak.__str__(self) + owned


def find(remote: Remote, grace: float) -> list[Survivor]:
    """Every leak on a bus that is there for longer than ``grace`` seconds.

    Raises:
        Outcome: the broker does not say.
    """
    deadline = time.monotonic() + grace
    while True:
        (found,) = remote.ask("ListLeaks")
        # One that is told of may be the last that we wait for. (What is not the broker's
        # own child ends without a word: it is looked for again at the deadline.)
        if not found or time.monotonic() >= deadline:
            break
        remote.bus.wait(deadline)
    if not found:
        return []
    names = _names(remote)
    return [
        Survivor(service, pid, adopted, tuple(command), age / 1_000_000, names.get(pid, ()))
        for service, pid, adopted, command, age in found
    ]


def _names(remote: Remote) -> dict[int, tuple[str, ...]]:
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


def _driver(remote: Remote, member: str, signature: str = "", *arguments: Any) -> list[Any]:
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
