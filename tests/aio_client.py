"""A running broker, asked and listened to inside an event loop, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from broker.bus import address as addresses
from broker.bus.codec import Message, MessageType, Variant
from broker.bus.connection import Connection
from broker.client.snapshot import Snapshot
from broker.core.contract import BUS_NAME, MANAGER, PROCESS, ROOT, SERVICE, is_absent
from broker.errors import Disconnected, NoBroker, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["BUS_NAME", "MANAGER", "PROCESS", "ROOT", "SERVICE", "Client", "Signal", "Snapshot"]


class Signal(NamedTuple):
    """A signal of the broker; ``body`` has plain Python values."""

    path: str
    member: str
    body: list[Any]


class Client:
    """A connection to a bus with a broker on it.

    Attributes:
        bus: the connection, for calls to others on the bus.
    """

    def __init__(self, bus: Connection, where: str) -> None:
        self.bus = bus
        self._where = where

    @classmethod
    async def connect(cls, where: str) -> Self:
        """Connect to the bus at an address.

        Raises:
            Disconnected: nobody listens there, or it is no bus.
            InvalidArgs: it is no address.
        """
        return cls(await Connection.to_bus(addresses.connect(where)), where)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bus.close()
        await self.bus.wait_closed()

    async def call(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method of the Manager; it may take as long as it likes.

        Raises:
            NoBroker: there is no broker on this bus.
            RemoteError: the broker's answer.
        """
        return await self._call(ROOT, MANAGER, member, signature, *arguments)

    async def get(self, path: str, interface: str, name: str) -> Any:
        """The value of a property; raises as ``call``."""
        properties = "org.freedesktop.DBus.Properties"
        (value,) = await self._call(path, properties, "Get", "ss", interface, name)
        return plain(value)

    async def snapshot(self) -> Snapshot:
        """Everything at once; raises as ``call``."""
        (objects,) = await self._call(
            ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"
        )
        return Snapshot.of(plain(objects))

    async def subscribe(self, on_signal: Callable[[Signal], None]) -> None:
        """Have all the broker's signals, in order, given to a function."""

        def on_message(message: Message) -> None:
            # A match rule is not enough: unicast signals pass it, whoever sends them.
            ours = message.sender == self.bus.owner(BUS_NAME)
            if ours and message.message_type is MessageType.SIGNAL:
                on_signal(Signal(message.path, message.member, plain(message.body)))
            else:
                self.bus.refuse(message)

        self.bus.on_message = on_message
        self.bus.follow(BUS_NAME)
        await self.bus.call_bus("AddMatch", "s", [f"type='signal',sender='{BUS_NAME}'"])

    async def _call(
        self, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        try:
            return await self.bus.call(
                BUS_NAME, path, interface, member, signature, list(arguments), timeout=None
            )
        except RemoteError as e:
            if is_absent(e):
                raise NoBroker(f"there is no dbus-activator on the bus {self._where}") from e
            raise
        except Disconnected as e:
            raise Disconnected(f"the bus {self._where} has gone: {e}") from e


def plain(value: Any) -> Any:
    """A value without variants, all the way down."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value
