"""Who owns the names that we care about, told in the bus's own order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from broker.bus.codec import Message
from broker.errors import Disconnected, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker.bus.connection import Connection

DRIVER: Final = "org.freedesktop.DBus"


class NameEvents(Protocol):
    """What a watch tells; called from within the event loop."""

    def name_acquired(self, name: str, owner: str, pid: int, heard: float) -> None:
        """A connection owns the name now; ``pid`` is 0 if it has gone already.

        ``heard`` is when the bus said so, before it said the PID: in seconds on the
        event loop's clock.
        """

    def name_lost(self, name: str) -> None:
        """Nobody owns it any more."""


@dataclass(slots=True)
class _News:
    tell: Callable[[], None] | None = None  # None: the bus has not said the PID yet


class NameWatch:
    """Follows NameOwnerChanged for a set of names, and asks for each new owner's PID.

    A PID takes a question and an answer, and other changes of the name can come
    in between: they wait, so that the order is the bus's. When the connection
    ends, nothing is told any more: that is no change of an owner.
    """

    def __init__(self, connection: Connection, events: NameEvents) -> None:
        self._connection = connection
        self._events = events
        self._names: set[str] = set()
        self._namespaces: set[str] = set()
        # As noted last; a name that nobody owns may be absent.
        self._owners: dict[str, str] = {}
        self._news: dict[str, deque[_News]] = {}

    async def watch(self, names: Collection[str]) -> None:
        """Follow exactly these names; those that are owned already are told as acquired.

        Raises:
            Disconnected: the bus has gone.
        """
        new = set(names) - self._names
        for name in self._names.difference(names):
            self.forget(name)
        self._names = set(names)
        # One rule for all names that begin alike ("org"), not one for each of
        # hundreds; unique names begin with a colon, so no client that comes or
        # goes wakes us.
        namespaces = {name.partition(".")[0] for name in names}
        for member, changed in (
            ("AddMatch", namespaces - self._namespaces),
            ("RemoveMatch", self._namespaces - namespaces),
        ):
            for namespace in sorted(changed):
                self._namespaces ^= {namespace}
                await self._connection.call_bus(member, "s", [_rule(namespace)])
        (owned,) = await self._connection.call_bus("ListNames")
        for name in new.intersection(owned):
            self._ask(name, lambda owner, name=name: self._note(name, owner))  # type: ignore[misc]

    def forget(self, name: str) -> None:
        """Follow a name no longer; if it is watched again, its owner is asked for anew."""
        self._names.discard(name)
        self._owners.pop(name, None)

    def handle(self, message: Message) -> None:
        """Take a NameOwnerChanged signal of the bus."""
        name, _old, owner = message.body
        self._note(name, owner)

    def ask(self, name: str, on_answer: Callable[[str], None]) -> None:
        """Ask who owns a name; all that the bus said before is told before the answer."""
        self._ask(name, lambda owner: self._add(name, _News(lambda: on_answer(owner))))

    def _ask(self, name: str, on_answer: Callable[[str], None]) -> None:
        def on_reply(reply: Message | Outcome) -> None:
            if not isinstance(reply, Disconnected):
                # The only other error that there is says that nobody does.
                on_answer("" if isinstance(reply, Outcome) else reply.body[0])

        self._connection.request(_question("GetNameOwner", name), on_reply)

    def _note(self, name: str, owner: str) -> None:
        # While a watch begins, a change can come both as a signal and as an answer.
        if name not in self._names or owner == self._owners.get(name, ""):
            return
        self._owners[name] = owner
        if not owner:
            self._add(name, _News(lambda: self._lost(name)))
            return
        heard = asyncio.get_running_loop().time()
        news = _News()

        def on_reply(reply: Message | Outcome) -> None:
            if not isinstance(reply, Disconnected):
                pid = 0 if isinstance(reply, Outcome) else reply.body[0]
                news.tell = lambda: self._acquired(name, owner, pid, heard)
                self._tell(name)

        self._add(name, news)
        self._connection.request(_question("GetConnectionUnixProcessID", owner), on_reply)

    def _acquired(self, name: str, owner: str, pid: int, heard: float) -> None:
        if name in self._names:
            self._events.name_acquired(name, owner, pid, heard)

    def _lost(self, name: str) -> None:
        if name in self._names:
            self._events.name_lost(name)

    def _add(self, name: str, news: _News) -> None:
        self._news.setdefault(name, deque()).append(news)
        self._tell(name)

    def _tell(self, name: str) -> None:
        waiting = self._news.get(name, deque())
        while waiting and (tell := waiting[0].tell):
            waiting.popleft()
            if not waiting:
                del self._news[name]
            tell()


def _rule(namespace: str) -> str:
    return (
        f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='NameOwnerChanged',"
        f"path='/org/freedesktop/DBus',arg0namespace='{namespace}'"
    )


def _question(member: str, name: str) -> Message:
    return Message(
        destination=DRIVER,
        path="/org/freedesktop/DBus",
        interface=DRIVER,
        member=member,
        signature="s",
        body=[name],
    )
