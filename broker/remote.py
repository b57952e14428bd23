"""A running broker, asked without an event loop: for the command line and synchronous tests."""

from __future__ import annotations

from broker.bus.blocking import BlockingConnection
from broker.contract import BUS_NAME, MANAGER, ROOT, SERVICE, is_absent
from broker.errors import Disconnected, NoBroker, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, Self

    from broker.snapshot import Snapshot

PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"


class Remote:
    """A connection to a bus with a broker on it.

    Attributes:
        bus: the connection.
        patience: for answers that the broker need not wait for itself, in seconds; they
            raise NoReply after it. None is without end.
    """

    def __init__(self, bus: BlockingConnection, where: str) -> None:
        self.bus = bus
        self.patience: float | None = None
        self._where = where

    @classmethod
    def connect(cls, where: str) -> Self:
        """Connect to the bus at an address.

        Raises:
            InvalidArgs: it is no address.
            Disconnected: nobody listens there, or it is no bus.
        """
        return cls(BlockingConnection.connect(where), where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bus.close()

    def call(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method of the Manager; it may take as long as it likes.

        Raises:
            NoBroker: there is no broker on this bus.
            RemoteError: the broker's answer.
            Disconnected: the bus has gone.
        """
        return self.reply(self.send(member, signature, *arguments))

    def send(self, member: str, signature: str = "", *arguments: Any) -> int:
        """Send a call of a method of the Manager, for ``reply``."""
        return self.bus.send(BUS_NAME, ROOT, MANAGER, member, signature, *arguments)

    def reply(self, serial: int, timeout: float | None = None) -> list[Any]:
        """The results of a call that was sent; raises as ``call``, and NoReply."""
        try:
            return self.bus.reply(serial, timeout)
        except RemoteError as e:
            if is_absent(e):
                raise NoBroker(
                    f"there is no dbus-activator on the bus {self._where}: start one with "
                    "dbus-activator serve, or name another bus with --address"
                ) from e
            raise
        except Disconnected as e:
            raise Disconnected(f"the bus {self._where} has gone: {e}") from e

    def ask(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method that the broker answers at once; raises as ``call``, and NoReply."""
        return self.reply(self.send(member, signature, *arguments), self.patience)

    def get(self, path: str, interface: str, name: str) -> Any:
        """One property of an interface of an object; raises as ``call``."""
        serial = self.bus.send(BUS_NAME, path, PROPERTIES, "Get", "ss", interface, name)
        return self.reply(serial, self.patience)[0]

    def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """Every property of an interface of an object; raises as ``call``."""
        serial = self.bus.send(BUS_NAME, path, PROPERTIES, "GetAll", "s", interface)
        values: dict[str, Any] = self.reply(serial, self.patience)[0]
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
        from broker.snapshot import Snapshot  # noqa: PLC0415 - see broker.cli's TYPE_CHECKING

        serial = self.bus.send(BUS_NAME, ROOT, _OBJECT_MANAGER, "GetManagedObjects")
        (objects,) = self.reply(serial, self.patience)
        return Snapshot.of(objects)

    def subscribe(self) -> None:
        """Have all the broker's signals from now on in ``bus.signal``."""
        # The sender too: anyone may send a signal that looks like one of these.
        self.bus.call_bus("AddMatch", "s", f"type='signal',sender='{BUS_NAME}'")
