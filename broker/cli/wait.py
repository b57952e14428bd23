"""``wait``: block until a service has its name, or has ended."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import query
from broker.contract import SERVICE
from broker.core.exits import CLD_EXITED

if TYPE_CHECKING:
    from broker.bus.wire import Received

TIMED_OUT: Final = 124  # as timeout(1)


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
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0),
    help=f"Wait at most so many seconds, then exit with {TIMED_OUT}.",
)
@query.query_options
def command(
    name: str, where: str | None, *, event: str, timeout: float | None, **options: Any
) -> None:
    """Wait until somebody owns a service's name, or until its process has ended.

    Nothing is started by it. For an exit, the exit status is the process's own, 128+N if
    signal N ended it; of a service that has ended already, that is its last one.

    \b
    Example:
      dbus-activator wait --for=exit --timeout=60 org.example.Batch
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with query.connect(where) as remote:
        remote.subscribe()
        (path,) = remote.call("GetService", "s", name)
        watch = _Watch(path, remote.get_all(path, SERVICE))
        done = watch.named if event == "name" else watch.ended
        while not done():
            signal = remote.bus.signal(deadline)
            if signal is None:
                if not options["quiet"]:
                    what = "taken its name" if event == "name" else "ended"
                    print(f"dbus-activator: {name} has not {what}", file=sys.stderr)
                sys.exit(TIMED_OUT)
            watch.take(signal)
        if event == "exit":
            sys.exit(watch.status())


class _Watch:
    """A service's properties, kept up to date by the broker's signals."""

    def __init__(self, path: str, properties: dict[str, Any]) -> None:
        self._path = path
        self._properties = properties
        self._first = dict(properties)
        # Of its main processes, as they ended: the newest is the answer if the service
        # has been started anew before we could look.
        self._exits: dict[int, tuple[int, int]] = {}
        self._main = properties["ExecMainPID"]
        self._again = False

    def take(self, signal: Received) -> None:
        if signal.member == "ProcessExited":
            _, _, pid, code, status, _ = signal.body
            self._exits[pid] = (code, status)
        elif signal.member == "PropertiesChanged" and signal.path == self._path:
            changed = signal.body[1]
            if "InvocationID" in changed and self._running(self._first):
                self._again = True
                return
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
        """Whether there is an end to tell: of the run that we saw, or of the one before."""
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
            print(
                f"dbus-activator: process {self._main} was not the broker's own child: "
                "its parent knows how it ended",
                file=sys.stderr,
            )
            return 1
        return int(status) if code == CLD_EXITED else 128 + int(status)
