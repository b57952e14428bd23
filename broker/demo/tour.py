"""The part of ``dbus-activator demo`` that runs as a client on its bus."""

from __future__ import annotations

import os
import sys
import time
from signal import SIGSEGV
from typing import TYPE_CHECKING, Any

from broker.cli import exits, tree
from broker.client.client import Client
from broker.errors import DBusError, NoReply, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = "org.activation.Demo"


def say(text: str = "") -> None:
    """A line for the spectator."""
    print(text, flush=True)


class Tour:
    """Calls services, and shows the broker's reports about them."""

    def __init__(self, broker: Client) -> None:
        self._broker = broker

    def run(self) -> None:
        """The stations, one after the other."""
        self._broker.subscribe()
        self._echo()
        self._daemon()
        self._crash()
        self._failure()

    def _echo(self) -> None:
        say("A plain method call starts a service")
        say(f"  $ busctl call {DEMO}.Echo /org/activation/Demo {DEMO} Echo s hello")
        say(f"  -> {self._call('Echo', 'Echo', 's', 'hello')!r}")
        took = self._get("Echo", "ActivationUSec") / 1000
        say(f"  PID {self._get('Echo', 'MainPID')}, {took:.0f} ms from the call to the name")
        say()

    def _daemon(self) -> None:
        say("One that daemonizes, by two forks: the broker is its parent all the same")
        say(f"  -> {self._call('Daemon', 'Echo', 's', 'hello')!r}")
        self._show_tree("Daemon")

    def _crash(self) -> None:
        say("It crashes, and the bus hears how")
        try:
            self._call("Daemon", "Raise", "i", int(SIGSEGV))
        except RemoteError as e:
            say(f"  its caller:  {e}")
        pid = self._get("Daemon", "ExecMainPID")
        exited = self._signal("ProcessExited", lambda body: body[2] == pid)
        _path, _service, _pid, code, status, _details = exited
        say(f"  the signal:  ProcessExited(pid={pid}, code={code}, status={status})")
        word = exits.exit_word(code, status)
        state = self._get("Daemon", "ActiveState")
        say(f"  the service: ActiveState={state}, ended by {word}")
        say()

    def _failure(self) -> None:
        say("One that ends before it takes its name")
        try:
            self._call("Exits", "Echo", "s", "hello")
        except RemoteError as e:
            say(f"  its caller:  {e}")
        failed = self._signal("ActivationFailed", lambda _body: True)
        say(f"  the signal:  ActivationFailed: {failed[2]}")
        code, status = (
            self._get("Exits", "ExecMainCode"),
            self._get("Exits", "ExecMainStatus"),
        )
        say(f"  the service: ExecMainCode={code}, ExecMainStatus={status}")
        say()

    def _call(self, service: str, member: str, signature: str, argument: Any) -> Any:
        body = self._broker.bus.call(
            f"{DEMO}.{service}", "/org/activation/Demo", DEMO, member, signature, argument
        )
        return body[0] if body else None

    def _get(self, service: str, name: str) -> Any:
        return self._broker.service(f"{DEMO}.{service}")[name]

    def _show_tree(self, service: str) -> None:
        snapshot = self._broker.snapshot()
        since = min(each["StartTimestampMonotonic"] for each in snapshot.processes.values())
        roots = tree.rows(snapshot, service=f"{DEMO}.{service}", exited=True)
        for line in tree.lines(roots, since, legend=True, margin=2):
            say(f"  {line}")
        say(f"  (the broker is PID {os.getppid()})")
        say()

    def _signal(self, wanted: str, matches: Callable[[list[Any]], bool]) -> list[Any]:
        deadline = time.monotonic() + 5
        while (signal := self._broker.signal(deadline)) is not None:
            if signal.member == wanted and matches(signal.body):
                return signal.body
        raise NoReply(f"no {wanted} from the broker within 5 s")


def main() -> None:
    """The tour, on the bus in the environment; an unplanned failure is printed as one line."""
    try:
        with Client.connect(os.environ["DBUS_SESSION_BUS_ADDRESS"]) as broker:
            say(f"The bus: {broker.manager()['Engine']}")
            say()
            Tour(broker).run()
    except DBusError as e:
        sys.exit(f"dbus-activator: the tour cannot go on: {e}")
