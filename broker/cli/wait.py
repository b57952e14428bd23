"""``wait``: block until a service owns its name, or has ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from broker.cli import TIMED_OUT, print_error_line, query
from broker.client.client import is_back
from broker.core.contract import PROCESS, SERVICE
from broker.core.exits import CLD_EXITED
from broker.errors import NoReply, RemoteError

if TYPE_CHECKING:
    from broker.bus.wire import Received
    from broker.client.client import Client


@click.command("wait", short_help="Wait for a service's name, or for its end.")
@click.argument("name", shell_complete=query.complete_names)
@click.option(
    "--for",
    "event",
    type=click.Choice(["name", "exit"]),
    default="name",
    show_default=True,
    help="What to wait for.",
)
@query.timeout_option(f"Maximum wait in seconds, then exit with {TIMED_OUT}.")
@query.query_options
def command(
    name: str, where: str | None, *, event: str, timeout: float | None, **options: Any
) -> None:
    """Wait until a service's name has an owner, or until its process has ended.

    It starts no service. With --for=exit, the exit status is the process's own, 128+N if
    signal N ended it; if the service has ended already, its last one.

    \b
    Example:
      dbus-activator wait --for=exit --timeout=60 org.example.Batch
    """
    deadline = query.end_of_wait(timeout)
    late = f"{name} has not {'taken its name' if event == 'name' else 'ended'}"
    try:
        with query.connect(where, None, timeout) as remote:
            remote.subscribe()
            watch = _Watch(*_look(remote, name))
            done = watch.named if event == "name" else watch.ended
            while not done():
                signal = remote.signal(deadline)
                if signal is None:
                    raise NoReply(f"in {timeout:g} s")
                if is_back(signal):
                    watch.look_again(remote, *_look(remote, name))
                else:
                    watch.take(signal)
    except NoReply as e:
        if not options["quiet"]:
            print_error_line(f"{late}: {e}")
        sys.exit(TIMED_OUT)
    if event == "exit":
        sys.exit(watch.status())


def _look(remote: Client, name: str) -> tuple[str, dict[str, Any]]:
    """A service's object and its properties."""
    (path,) = remote.ask("GetService", "s", name)
    return path, remote.get_all(path, SERVICE)


class _Watch:
    """A service's properties, kept up to date by the broker's signals."""

    def __init__(self, path: str, properties: dict[str, Any]) -> None:
        self._path = path
        self._properties = properties
        self._first = dict(properties)
        # The exits of its main processes, in order: the newest is the answer if the service
        # was restarted before we could look.
        self._exits: dict[int, tuple[int, int]] = {}
        self._main = properties["ExecMainPID"]
        self._again = False

    def look_again(self, remote: Client, path: str, properties: dict[str, Any]) -> None:
        """Take the current properties after possibly missed signals."""
        self._path = path
        started_anew = properties["InvocationID"] != self._properties["InvocationID"]
        if started_anew and self._running(self._first):
            self._exits.setdefault(self._main, _exit_of(remote, self._main))
            self._again = True
            return
        self._update(properties)

    def take(self, signal: Received) -> None:
        if signal.member == "ProcessExited":
            _, _, pid, code, status, _ = signal.body
            self._exits[pid] = (code, status)
        elif signal.member == "PropertiesChanged" and signal.path == self._path:
            changed = signal.body[1]
            if "InvocationID" in changed and self._running(self._first):
                self._again = True
                return
            self._update(changed)

    def _update(self, changed: dict[str, Any]) -> None:
        self._properties |= changed
        self._main = self._properties["ExecMainPID"] or self._main
        if not self._running(self._first):
            self._first = dict(self._properties)

    def named(self) -> bool:
        return bool(self._properties["Owner"])

    @staticmethod
    def _running(properties: dict[str, Any]) -> bool:
        return properties["ActiveState"] in ("activating", "active", "deactivating")

    def ended(self) -> bool:
        """Whether there is an exit to report: of the run that we saw, or of the previous one."""
        if self._again:
            return True
        if self._running(self._properties):
            return False
        return bool(self._properties["ExecMainPID"])

    def status(self) -> int:
        """The exit status of the process that ended."""
        code, status = self._properties["ExecMainCode"], self._properties["ExecMainStatus"]
        if self._again:
            code, status = self._exits.get(self._main, (0, 0))
        if not code:
            print_error_line(
                f"process {self._main} was not the broker's own child: "
                "only its parent knows its exit status"
            )
            return 1
        return int(status) if code == CLD_EXITED else 128 + int(status)


def _exit_of(remote: Client, pid: int) -> tuple[int, int]:
    """The exit of a process; (0, 0) if the broker does not know it."""
    try:
        (path,) = remote.ask("GetProcess", "u", pid)
        about = remote.get_all(path, PROCESS)
    except RemoteError:
        return 0, 0
    return about["ExitCode"], about["ExitStatus"]
