"""A synchronous client of a running broker: for the command line, the demo and tests.

The broker may lose its connection to the bus, and reconnect. Then this client repeats
read-only calls, and its user must read the state anew if it follows signals.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

from broker.bus.blocking import BlockingConnection
from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.client import checks
from broker.client.snapshot import Snapshot
from broker.core.contract import (
    BUS_NAME,
    MANAGER,
    OBJECT_MANAGER,
    PROPERTIES,
    ROOT,
    SERVICE,
    has_left,
    is_absent,
    is_proxys,
)
from broker.errors import Disconnected, NoBroker, NoReply, ProxyDenied, RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from broker.bus.wire import Received

# The maximum of concurrent calls: a quarter of the broker's limit for one client.
_AT_ONCE: Final = 256
# The time for a broker to reconnect, in seconds; it has the rest of the session to look
# after meanwhile.
RETURN: Final = 10.0


class Client:
    """A connection to a bus with a broker on it.

    Attributes:
        bus: the connection.
        patience: the timeout of answers that the broker can give at once, in seconds; NoReply
            is raised after it. None is unlimited.
        deadline: of all answers, on the monotonic clock in seconds; None is unlimited.
        leaving: the end of the wait for a broker that has left the bus, on the same clock;
            None while it is on the bus.
    """

    def __init__(self, bus: BlockingConnection, where: str) -> None:
        self.bus = bus
        self.patience: float | None = None
        self.deadline: float | None = None
        self.leaving: float | None = None
        self._where = where
        self._met = False
        # By serial, until answered.
        self._members: dict[int, str] = {}

    @classmethod
    def connect(
        cls, where: str, patience: float | None = None, deadline: float | None = None
    ) -> Self:
        """Connect to the bus at an address.

        Args:
            patience, deadline: for this, and for answers.

        Raises:
            InvalidArgs: ``where`` is not an address.
            Disconnected: nobody listens there, or the server is not a bus.
            NoReply: the bus does not answer in time.
        """
        limit = _earliest(deadline, _after(patience))
        left = None if limit is None else max(limit - time.monotonic(), 0)
        try:
            self = cls(BlockingConnection.connect(where, left), where)
        except NoReply as e:
            raise NoReply(f"no answer from the bus {where}: {e}") from e
        self.patience = self.bus.patience = patience
        self.deadline = deadline
        if patience is None:
            self.bus.patience = left
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bus.close()

    # -- questions -------------------------------------------------------------

    def call(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method of the Manager, without a timeout for this method.

        Raises:
            NoBroker: there is no broker on this bus.
            ProxyDenied: a sandbox's proxy blocks the call.
            RemoteError: the broker's error reply.
            NotUnderstood: its answer violates the interface.
            NoReply: it does not answer even simple calls in time.
            Disconnected: the bus has gone.
        """
        return self.reply(self.send(member, signature, *arguments))

    def send(self, member: str, signature: str = "", *arguments: Any) -> int:
        """Send a call of a method of the Manager, for ``reply``."""
        return self._send(ROOT, MANAGER, member, signature, *arguments)

    def reply(self, serial: int, timeout: float | None = None) -> list[Any]:
        """The results of a sent call; raises as ``call``.

        The wait lasts as long as the broker answers other calls.

        Args:
            timeout: in seconds; NoReply is raised after it.
        """
        deadline = _earliest(self.deadline, _after(timeout))
        while True:
            limit = _earliest(deadline, _after(self.patience))
            probe = 0
            if self.patience is not None and not self.bus.answered(serial):
                # Not Ping: D-Bus libraries answer it even in a program that hangs.
                arguments = (MANAGER, "ActivationTimeoutUSec")
                probe = self._write(ROOT, PROPERTIES, "Get", "ss", *arguments)
            arrived = self._arrives(serial, limit)
            lives = self.bus.answered(probe)
            self.bus.forget(probe)
            if arrived:
                return self._take(serial)
            if not lives or _is_over(deadline):
                raise self._late(serial, timeout if timeout is not None else self.patience)

    def ask(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method with an immediate answer; raises as ``call``."""
        return self._ask(ROOT, MANAGER, member, signature, *arguments)

    def get(self, path: str, interface: str, name: str) -> Any:
        """One property of an interface of an object; raises as ``call``."""
        return self._ask(path, PROPERTIES, "Get", "ss", interface, name)[0]

    def get_each(self, paths: Sequence[str], interface: str, name: str) -> list[Any]:
        """One property of each of several objects, in little more time than for one.

        Returns:
            the values; None if the object has gone, or has no such property.

        Raises: as ``call``, except for errors that concern one object alone.
        """
        found: list[Any] = []
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            arguments = ("ss", interface, name)
            serials = [self._send(each, PROPERTIES, "Get", *arguments) for each in some]
            for path, serial in zip(some, serials, strict=True):
                try:
                    found.append(self._await(serial, (interface, name))[0])
                except NoBroker:
                    found.append(self.get(path, interface, name))
                except RemoteError:
                    found.append(None)
        return found

    def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """Every property of an interface of an object; raises as ``call``."""
        values: dict[str, Any] = self._ask(path, PROPERTIES, "GetAll", "s", interface)[0]
        return values

    def service(self, name: str) -> dict[str, Any]:
        """Every property of a service; raises as ``call``."""
        (path,) = self.ask("GetService", "s", name)
        return self.get_all(path, SERVICE)

    def manager(self) -> dict[str, Any]:
        """Every property of the Manager; raises as ``call``."""
        return self.get_all(ROOT, MANAGER)

    def snapshot(self) -> Snapshot:
        """All objects at once; raises as ``call``."""
        (objects,) = self._ask(ROOT, OBJECT_MANAGER, "GetManagedObjects")
        return Snapshot.of(objects)

    def _ask(
        self, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        until: float | None = None
        while True:
            serial = self._send(path, interface, member, signature, *arguments)
            try:
                return self._await(serial, arguments if interface == PROPERTIES else ())
            except NoBroker:
                # A call with an effect may have been carried out: do not repeat it.
                if not self._met or not member.startswith(("Get", "List")):
                    raise
                until = until or time.monotonic() + RETURN
                self._await_return(until)

    def _await(self, serial: int, properties: tuple[str, ...]) -> list[Any]:
        if not self._arrives(serial, _earliest(self.deadline, _after(self.patience))):
            raise self._late(serial, self.patience)
        return self._take(serial, properties)

    def _send(
        self, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> int:
        serial = self._write(path, interface, member, signature, *arguments)
        self._members[serial] = member
        return serial

    def _write(self, path: str, interface: str, member: str, *arguments: Any) -> int:
        try:
            return self.bus.send(BUS_NAME, path, interface, member, *arguments)
        except Disconnected as e:
            raise self._gone(e) from e

    def _gone(self, e: Disconnected) -> Disconnected:
        return Disconnected(f"the bus {self._where} has gone: {e}")

    def _arrives(self, serial: int, deadline: float | None) -> bool:
        try:
            return self.bus.arrives(serial, deadline)
        except Disconnected as e:
            raise self._gone(e) from e

    def _take(self, serial: int, properties: tuple[str, ...] = ()) -> list[Any]:
        member = self._members.pop(serial)
        try:
            answer = self.bus.answer(serial)
        except RemoteError as e:
            if is_proxys(e):
                raise ProxyDenied(
                    f"the proxy in front of the bus {self._where} refuses {member} with {e.name}: "
                    f"it needs --talk={BUS_NAME} (in Flatpak --talk-name={BUS_NAME})"
                ) from e
            if is_absent(e) and not self._met:
                raise NoBroker(
                    f"there is no dbus-activator on the bus {self._where}: start one with "
                    "dbus-activator serve, or name another bus with --address"
                ) from e
            self._met = True
            if is_absent(e) or has_left(e):
                raise NoBroker(
                    f"the broker has left the bus {self._where} without an answer to {member}"
                ) from e
            raise
        self._met = True
        checks.answer(member, answer, *properties)
        return answer.body

    def _late(self, serial: int, patience: float | None) -> NoReply:
        self.bus.forget(serial)
        member = self._members.pop(serial)
        within = "in time" if patience is None else f"within {patience:g} s"
        return NoReply(f"no answer from the broker on the bus {self._where} to {member} {within}")

    def _await_return(self, until: float) -> None:
        """Return when the broker's name has an owner; raises NoBroker, or NoReply when late."""
        limit = _earliest(self.deadline, until)
        while not self.bus.owner(BUS_NAME) and not _is_over(limit):
            try:
                self.bus.wait(limit)
            except Disconnected as e:
                raise self._gone(e) from e
        if _is_over(until):
            raise NoBroker(f"the broker has left the bus {self._where}")
        if _is_over(limit):
            raise NoReply(f"the broker has left the bus {self._where}, and is not back in time")

    # -- signals ---------------------------------------------------------------

    def subscribe(self, rule: str = "") -> None:
        """Receive the broker's signals from now on, for ``signal``.

        Args:
            rule: a selection of them, as the rest of a match rule.

        Raises:
            NoReply: the bus does not answer in time.
            Disconnected: it has gone.
        """
        # A rule is not enough: unicast signals bypass it.
        self.bus.hear(BUS_NAME)
        whole = f"type='signal',sender='{BUS_NAME}'{',' * bool(rule)}{rule}"
        where = (DRIVER, DRIVER_PATH, DRIVER)
        serial = self.bus.send(*where, "AddMatch", "s", whole)
        if not self._arrives(serial, _earliest(self.deadline, _after(self.patience))):
            self.bus.forget(serial)
            raise NoReply(f"no answer from the bus {self._where} in time")
        self.bus.answer(serial)

    def signal(self, deadline: float | None) -> Received | None:
        """The next signal of the broker, or the bus's signal of its return: see ``is_back``.

        Args:
            deadline: on the monotonic clock, in seconds; None waits as long as the bus lives.

        Returns:
            None if none came in time.

        Raises:
            NotUnderstood: the signal violates its interface.
            NoBroker: the broker has left the bus, and has not returned.
            Disconnected: the bus has gone.
        """
        while True:
            found = self.bus.signal(_earliest(deadline, self.leaving))
            if found is None:
                if _is_over(self.leaving):
                    raise NoBroker(f"the broker has left the bus {self._where}")
                return None
            if found.sender != DRIVER:
                if checks.signal(found):
                    return found
            elif found.member == "NameOwnerChanged" and found.body[0] == BUS_NAME:
                back = bool(found.body[2])
                self.leaving = None if back else time.monotonic() + RETURN
                if back:
                    return found


def is_back(signal: Received) -> bool:
    """Whether a signal shows a new connection of the broker: signals may have been missed."""
    return signal.sender == DRIVER


def _after(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _earliest(*deadlines: float | None) -> float | None:
    return min((each for each in deadlines if each is not None), default=None)
