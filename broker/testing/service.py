"""One service on a test's bus, and its processes."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.errors import NotRunning, RemoteError
from broker.process import procfs
from broker.testing.events import returncode

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.client import Client
    from broker.client.snapshot import Snapshot

_RUNNING: Final = ("activating", "active", "deactivating")
# Lines of a service's log in the text of an error.
_LAST_LINES: Final = 20


class StartError(RemoteError):
    """A service did not take its name.

    Attributes:
        name: of the D-Bus error, such as org.freedesktop.DBus.Error.Spawn.ChildExited.
        service: its name.
        result: exit-code, signal, core-dump, timeout, protocol, exec-failed, resources or
            start-limit-hit; empty if the broker is still waiting for the name.
        returncode: of its main process, as in ``subprocess``; None if that has not ended.
        log: the last lines of its output.
    """

    def __init__(
        self,
        name: str,
        text: str,
        *,
        service: str,
        result: str,
        returncode: int | None,
        log: tuple[str, ...],
    ) -> None:
        lines = [text if service in text else f"{service}: {text}"]
        if returncode is not None:
            lines.append(f"  {how(returncode)}, result {result}")
        if log:
            lines += ["  it wrote:", *(f"    {line}" for line in log[-_LAST_LINES:])]
        super().__init__(name, "\n".join(lines))
        self.service = service
        self.result = result
        self.returncode = returncode
        self.log = log


def how(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a service, at the time of the request.

    Attributes:
        origin: spawned (by the broker), adopted (an orphan), or child (of another process
            of the service: only that parent learns its exit).
        returncode: as in ``subprocess``; None while it runs.
    """

    pid: int
    ppid: int
    origin: str
    command: tuple[str, ...]
    returncode: int | None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.returncode is None


class Service:
    """A service on a test's bus. Each read of a property asks the broker.

    All of them raise ``broker.errors.RemoteError`` if the bus knows no such service.
    """

    def __init__(self, name: str, remote: Client, wait: Callable[[float | None], bool]) -> None:
        """A service that is asked for by a connection; ``wait`` is the bus's."""
        self.name = name
        self._remote = remote
        self._wait = wait

    def __repr__(self) -> str:
        return f"<Service {self.name}>"

    def properties(self) -> dict[str, Any]:
        """All of the broker's properties of it, by the D-Bus interface's names."""
        return self._remote.service(self.name)

    @property
    def state(self) -> str:
        """Inactive, activating, active, deactivating or failed, in lower case."""
        return str(self.properties()["ActiveState"])

    @property
    def sub_state(self) -> str:
        """The state in detail, such as running, lingering or stop-sigterm."""
        return str(self.properties()["SubState"])

    @property
    def result(self) -> str:
        """Success, or the reason of its failure, in lower case."""
        return str(self.properties()["Result"])

    @property
    def pid(self) -> int | None:
        """The PID of the name's owner, or of the starting process; None without one."""
        return self.properties()["MainPID"] or None

    @property
    def activations(self) -> int:
        """The number of its activations."""
        return int(self.properties()["NActivations"])

    @property
    def returncode(self) -> int | None:
        """Of its main process, as in ``subprocess``: -N for signal N.

        None while it runs, if it never ran, and for a process whose exit only its parent learns.
        """
        return ended(self.properties())

    @property
    def processes(self) -> list[Process]:
        """Its processes, in the order of their starts: live ones, and the last 16 ended ones."""
        return of_snapshot(self._remote.snapshot(), self.name)

    @property
    def log(self) -> list[str]:
        """The lines of its standard output and error."""
        lines, _dropped = self._remote.ask("GetLog", "stu", self.name, 0, 0)
        return [line[-1] for line in lines]

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended, and return its ``returncode``.

        Args:
            timeout: in seconds; None waits as long as the bus lives.

        Raises:
            TimeoutError: it still runs.
            NotRunning: it has not been started.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            about = self.properties()
            if self.over(about):
                return ended(about)
            if not self._wait(deadline):
                raise TimeoutError(f"{self.name} is still {about['ActiveState']} ({timeout:g} s)")

    def over(self, about: dict[str, Any]) -> bool:
        """Whether it has ended, by its properties; raises NotRunning if it never started."""
        if about["ActiveState"] in _RUNNING:
            return False
        if not about["NActivations"]:
            raise NotRunning(f"{self.name} has not been started")
        return True

    def kill(self, number: int = signal.SIGKILL, *, whom: str = "all") -> None:
        """Send a signal to all its processes, or to its main one (``whom="main"``).

        Raises:
            RemoteError: it has no such process (org.activation.Broker1.Error.NotRunning).
        """
        self._remote.ask("KillService", "ssi", self.name, whom, int(number))

    def stop(self) -> None:
        """End all its processes: SIGTERM, and SIGKILL after the stop timeout.

        Its leaked processes end too, and no longer count as leaks.
        """
        self._remote.call("StopService", "s", self.name)


def ended(about: dict[str, Any]) -> int | None:
    """The return code in a service's properties."""
    code = about["ExecMainCode"]
    return returncode(code, about["ExecMainStatus"]) if code else None


def of_snapshot(snapshot: Snapshot, name: str) -> list[Process]:
    """The processes of a service."""
    records = [each for each in snapshot.processes.values() if each["ServiceName"] == name]
    records.sort(key=lambda each: each["StartTimestampMonotonic"])
    found = {
        each["PID"]: Process(
            each["PID"],
            each["PPID"],
            each["Origin"],
            tuple(each["Command"]),
            returncode(each["ExitCode"], each["ExitStatus"]) if each["ExitCode"] else None,
        )
        for each in records
    }
    (service,) = [each for each in snapshot.services.values() if each["Name"] == name]
    for pid in service["PIDs"]:
        about = procfs.stat(pid)
        if pid not in found and about is not None:
            found[pid] = Process(pid, about.ppid, "child", procfs.command(pid), None)
    return list(found.values())
