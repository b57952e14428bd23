"""What the kernel and the bus say of the broker and its engine, without the broker's help."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.bus import address
from broker.bus.connection import Connection
from broker.errors import RemoteError
from broker.process import guardian, procfs

if TYPE_CHECKING:
    from broker.bus.codec import Message
    from tests.aio_client import Client

DRIVER: Final = "org.freedesktop.DBus"
# Children of the broker that are no service's: the engine, and by its comm the
# process that would end them all if the broker were killed.
OWN_CHILDREN: Final = {"dbus-broker", "dbus-daemon", guardian.NAME}
# Counts activations down (broker.process.tag); every other limit stays as it is.
COUNTED_LIMIT: Final = "Max file locks"


def leaked(broker: int, tree: list[int]) -> list[str]:
    """The processes below the broker that are not there when nothing runs."""
    found = []
    for pid in tree:
        about = procfs.stat(pid)
        if about and not (about.ppid == broker and about.comm in OWN_CHILDREN):
            found.append(f"PID {pid} of {about.ppid}, {' '.join(procfs.command(pid))}")
    return found


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Resident memory in bytes; 0 after its end."""
    fields = (procfs.read(f"/proc/{pid}/statm") or b"0 0").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def limits(pid: int) -> list[str]:
    """The resource limits that nothing in here should change."""
    text = (procfs.read(f"/proc/{pid}/limits") or b"").decode()
    return [line for line in text.splitlines() if not line.startswith(COUNTED_LIMIT)]


def cgroups(broker: int) -> list[str]:
    """The directories that the broker made."""
    prefix = f"dbus-activator-{broker}-"
    return [
        os.path.join(root, name)
        for root, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(prefix)
    ]


@dataclass(slots=True)
class Memory:
    """Resident memory of a process over time: a second and a number of bytes each."""

    warm_up: float
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def _warm(self) -> list[tuple[float, int]]:
        """All of them where the run was over before."""
        return [each for each in self.samples if each[0] >= self.warm_up] or self.samples

    def levels(self) -> tuple[float, float]:
        """The medians of the first and of the last fifth after the warm-up."""
        sizes = [size for _, size in self._warm]
        fifth = max(1, len(sizes) // 5)
        return statistics.median(sizes[:fifth]), statistics.median(sizes[-fifth:])

    def slope(self) -> float:
        """Bytes a minute, of a straight line through all after the warm-up."""
        if len(self._warm) < 2:
            return 0.0
        return statistics.linear_regression(*zip(*self._warm, strict=True)).slope * 60


class MatchRules:
    """Counts the match rules of the broker's connections, as the bus hears of them.

    A monitor works on both engines; only dbus-daemon can also be asked.
    """

    def __init__(self, monitor: Connection, owners: list[str]) -> None:
        self._monitor = monitor
        self._owners = owners
        self.net = 0
        self.calls = 0

    @classmethod
    async def watch(cls, client: Client, where: str, broker: int) -> MatchRules:
        """Count those of all connections of a process from now on."""
        owners = []
        (names,) = await client.bus.call_bus("ListNames")
        for name in names:
            if name.startswith(":"):
                (pid,) = await client.bus.call_bus("GetConnectionUnixProcessID", "s", [name])
                owners += [name] * (pid == broker)
        self = cls(await Connection.to_bus(address.connect(where)), owners)
        self._monitor.on_message = self._on_message
        rules = [
            f"type='method_call',destination='{DRIVER}',member='{member}',sender='{owner}'"
            for member in ("AddMatch", "RemoveMatch")
            for owner in owners
        ]
        await self._monitor.call(
            DRIVER,
            "/org/freedesktop/DBus",
            f"{DRIVER}.Monitoring",
            "BecomeMonitor",
            "asu",
            [rules, 0],
        )
        return self

    def _on_message(self, message: Message) -> None:
        # Nothing is answered: a monitor that sends is disconnected.
        if message.sender in self._owners and message.member in ("AddMatch", "RemoveMatch"):
            self.calls += 1
            self.net += 1 if message.member == "AddMatch" else -1

    async def asked(self, client: Client) -> int | None:
        """How many there are, where the bus can tell."""
        try:
            (rules,) = await client.bus.call(
                DRIVER, "/org/freedesktop/DBus", f"{DRIVER}.Debug.Stats", "GetAllMatchRules"
            )
        except RemoteError:
            return None
        return sum(len(rules[owner]) for owner in self._owners)

    def close(self) -> None:
        """Count no more."""
        self._monitor.close()
