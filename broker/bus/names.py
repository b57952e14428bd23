"""Who owns the names that we care about, told in the bus's own order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from broker.bus.codec import Message
from broker.errors import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker.bus.connection import Connection

DRIVER: Final = "org.freedesktop.DBus"


class NameEvents(Protocol):
    """What a watch tells; called from within the event loop."""

    def name_acquired(self, name: str, owner: str, pid: int) -> None:
        """A connection owns the name now; ``pid`` is 0 if it has gone already."""

    def name_lost(self, name: str) -> None:
        """Nobody owns it any more."""


@dataclass(slots=True)
class _Change:
    owner: str  # empty: lost
    pid: int | None  # None: the bus has not said yet


class NameWatch:
    """Follows NameOwnerChanged for a set of names, and asks for each new owner's PID.

    A PID takes a question and an answer, and other changes of the name can come
    in between: they wait, so that the order is the bus's.
    """

    def __init__(self, connection: Connection, events: NameEvents) -> None:
        self._connection = connection
        self._events = events
        self._names: set[str] = set()
        self._namespaces: set[str] = set()
        self._changes: dict[str, deque[_Change]] = {}

    async def watch(self, names: Collection[str]) -> None:
        """Follow exactly these names; those that are owned already are told as acquired.

        Raises:
            Disconnected: the bus has gone.
        """
        new = set(names) - self._names
        self._names = set(names)
        # One rule for all names that begin alike ("org"), not one for each of
        # hundreds; unique names begin with a colon, so no client that comes or
        # goes wakes us.
        for namespace in sorted({name.partition(".")[0] for name in names} - self._namespaces):
            self._namespaces.add(namespace)
            await self._connection.call_bus(
                "AddMatch",
                "s",
                [
                    (
                        f"type='signal',sender='{DRIVER}',interface='{DRIVER}',"
                        f"member='NameOwnerChanged',path='/org/freedesktop/DBus',"
                        f"arg0namespace='{namespace}'"
                    )
                ],
            )
        (owned,) = await self._connection.call_bus("ListNames")
        for name in new.intersection(owned):
            self.ask(name, lambda owner, name=name: self._note(name, owner))  # type: ignore[misc]

    def handle(self, message: Message) -> None:
        """Take a NameOwnerChanged signal of the bus."""
        name, _old, owner = message.body
        if name in self._names:
            self._note(name, owner)

    def ask(self, name: str, on_answer: Callable[[str], None]) -> None:
        """Ask who owns a name; all that the bus said before is told before the answer."""

        def on_reply(reply: Message | Outcome) -> None:
            # The only error that there is says that nobody does.
            on_answer("" if isinstance(reply, Outcome) else reply.body[0])

        self._connection.request(_question("GetNameOwner", name), on_reply)

    def _note(self, name: str, owner: str) -> None:
        changes = self._changes.setdefault(name, deque())
        change = _Change(owner, None if owner else 0)
        changes.append(change)
        if owner:

            def on_reply(reply: Message | Outcome) -> None:
                change.pid = 0 if isinstance(reply, Outcome) else reply.body[0]
                self._tell(name)

            self._connection.request(_question("GetConnectionUnixProcessID", owner), on_reply)
        else:
            self._tell(name)

    def _tell(self, name: str) -> None:
        changes = self._changes.get(name, deque())
        while changes and changes[0].pid is not None:
            change = changes.popleft()
            if not changes:
                del self._changes[name]
            if change.owner:
                self._events.name_acquired(name, change.owner, change.pid or 0)
            else:
                self._events.name_lost(name)


def _question(member: str, name: str) -> Message:
    return Message(
        destination=DRIVER,
        path="/org/freedesktop/DBus",
        interface=DRIVER,
        member=member,
        signature="s",
        body=[name],
    )
