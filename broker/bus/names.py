"""Who owns the names of our services, as the bus tells it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker.bus import peek, wire
from broker.bus.codec import MessageType, of_bus
from broker.bus.driver import DRIVER, DRIVER_PATH, NAME_HAS_NO_OWNER
from broker.bus.flips import PERIOD, Flips
from broker.errors import DBusError, Disconnected, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator

    from broker.bus.codec import Message
    from broker.bus.connection import Connection

log = logging.getLogger(__name__)

# Of what one reading brings, so many changes of one name are told, with no answer between
# them: the first ones and the last. That it was taken and lost, and how things stand, is
# told by these; the rest is a client that flips the name thousands of times a second.
_CHANGES: Final = 8
# Of what one reading brings, so many calls are refused; the rest get no answer. Nobody has
# anything to ask of this connection.
_REFUSALS: Final = 16
# So many names are asked about at once, whatever there are more; a session has some dozens.
_ASKED: Final = 4096


class NameEvents(Protocol):
    """What a watch tells, from within the event loop."""

    def name_acquired(self, name: str, owner: str, pid: int | None, heard: float) -> None:
        """A connection owns the name now.

        Args:
            pid: of its process; None if the connection has closed already, 0 if the bus
                cannot say, as of a process in another PID namespace.
            heard: when the bus said so, before it said the PID: in seconds on the event
                loop's clock.
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
    ends, nothing is told any more: that is no change of an owner. ``resume`` goes on
    with another connection, and asks again what was not answered.

    It has a connection of its own. Whoever flips a name fills its queue at the bus, and
    calls of our objects would wait behind that.

    Args:
        max_rules: up to so many names have a match rule each; more have one for all that
            begin alike. Needed where the bus compares each change with each rule.
    """

    def __init__(self, events: NameEvents, max_rules: int) -> None:
        self._events = events
        self._max_rules = max_rules
        self._connection: Connection | None = None
        self._names: set[str] = set()
        self._in_frames: set[bytes] = set()  # the same names
        self._rules: set[str] = set()  # those that the bus has
        self._changing = asyncio.Lock()  # of the rules
        # As noted last; a name that nobody owns may be absent.
        self._owners: dict[str, str] = {}
        self._news: dict[str, deque[_News]] = {}
        # Asks what a connection that was lost left without an answer.
        self._unanswered: list[Callable[[], None]] = []
        self._next_sync: asyncio.Future[None] | None = None
        self._flips = Flips()
        self._fields_of_change = b""  # those of the last one
        # Names that are not followed for a while, since somebody flips them.
        self._muted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the set of names --------------------------------------------------------

    async def watch(self, names: Collection[str]) -> None:
        """Follow exactly these names; those that are owned already are told as acquired.

        Without a connection, the next one does it.

        Raises:
            DBusError: the bus refuses, or does not answer.
        """
        new = set(names) - self._names
        for name in self._names.difference(names):
            self._drop(name)
        self._names = set(names)
        self._in_frames = {name.encode() for name in self._names - self._muted}
        await self._change_rules(new)

    async def resume(self, connection: Connection) -> None:
        """Go on with a new connection.

        Who owns which name is asked anew. An owner that came and went while there was no
        connection is never heard of, but no question was answered meanwhile, either.

        Raises:
            DBusError: the bus refuses, or has closed this connection as well.
        """
        self._rules = set()
        connection.on_message = partial(self._on_message, connection)
        connection.sift = self.sift
        await self._set_rules(connection)
        # Not before: an answer must come behind the owners that are noted here.
        self._connection = connection
        with connection.corked():
            self._note_owners(self._names)
            unanswered, self._unanswered = self._unanswered, []
            for ask in unanswered:
                ask()

    def forget(self, name: str) -> None:
        """Follow a name no longer; if it is watched again, its owner is asked for anew."""
        self._drop(name)
        self._start(self._change_rules([]))

    def _drop(self, name: str) -> None:
        self._names.discard(name)
        self._in_frames.discard(name.encode())
        self._muted.discard(name)
        self._owners.pop(name, None)

    async def _set_rules(self, connection: Connection) -> None:
        async with self._changing:
            wanted = self._wanted_rules()
            for member, changed in (
                ("AddMatch", wanted - self._rules),
                ("RemoveMatch", self._rules - wanted),
            ):
                rules = sorted(changed)
                answers = await connection.call_bus_each(member, rules)
                for rule, answer in zip(rules, answers, strict=True):
                    if isinstance(answer, DBusError):
                        raise answer
                    self._rules ^= {rule}

    def _wanted_rules(self) -> set[str]:
        # Unique names begin with a colon, so no client that comes or goes wakes us.
        if len(self._names) <= self._max_rules:
            return {_rule("arg0", name) for name in self._names - self._muted}
        return {_rule("arg0namespace", name.partition(".")[0]) for name in self._names}

    def _note_owners(self, names: Iterable[str]) -> None:
        for name in names:
            self._request(
                of_bus("GetNameOwner", "s", [name]),
                lambda reply, name=name: self._note(name, _owner(reply)),  # type: ignore[misc]
                lost=lambda: None,  # the next connection asks for all
            )

    # -- names that are flipped ------------------------------------------------------

    def _mute(self, name: bytes) -> None:
        """Follow a name no more for a while, and see then who owns it.

        dbus-broker takes in more changes than it passes on to one client: the queue would
        grow, and the other names' changes come seconds late.
        """
        self._in_frames.discard(name)
        text = name.decode()
        self._muted.add(text)
        self._start(self._change_rules([]))
        asyncio.get_running_loop().call_later(PERIOD, self._unmute, text)

    def _unmute(self, name: str) -> None:
        if name in self._muted:
            self._muted.discard(name)
            self._in_frames.add(name.encode())
            self._start(self._change_rules([name]))

    async def _change_rules(self, new: Collection[str]) -> None:
        if self._connection is not None:
            with contextlib.suppress(Disconnected):  # the next connection does it
                await self._set_rules(self._connection)
                self._note_owners(new)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- questions -----------------------------------------------------------------

    def ask(self, name: str, on_answer: Callable[[str], None]) -> None:
        """Ask who owns a name; all that the bus said before is told before the answer."""

        def on_reply(reply: Message | DBusError) -> None:
            owner = _owner(reply)
            self._note(name, owner)  # for one that is muted, it is news
            self._add(name, _News(lambda: on_answer(owner)))

        self._request(
            of_bus("GetNameOwner", "s", [name]), on_reply, lost=lambda: self.ask(name, on_answer)
        )

    def ask_processes(self, on_answer: Callable[[frozenset[int]], None]) -> None:
        """Ask for the PIDs of all who own a well-known name, as far as the bus knows them.

        There is no answer if the bus refuses, nor before there is a connection.
        """

        def on_names(reply: Message | DBusError) -> None:
            if isinstance(reply, DBusError):
                log.warning("the bus does not list its names: %s", reply)
                return
            (found,) = reply.body
            names = [each for each in found if not each.startswith(":") and each != DRIVER]
            pids: list[int | None] = []
            wanted = min(len(names), _ASKED)

            def on_pid(reply: Message | DBusError) -> None:
                pids.append(_pid(reply))
                if len(pids) == wanted:
                    on_answer(frozenset(pid for pid in pids if pid))

            def ask(name: str) -> None:
                question = of_bus("GetConnectionUnixProcessID", "s", [name])
                self._request(question, on_pid, lost=partial(ask, name))

            for name in names[:wanted]:
                ask(name)
            if not wanted:
                on_answer(frozenset())

        self._request(of_bus("ListNames"), on_names, lost=partial(self.ask_processes, on_answer))

    def synced(self) -> asyncio.Future[None]:
        """Done when all has been told that the bus had said when this was called."""
        if self._next_sync is None:
            loop = asyncio.get_running_loop()
            self._next_sync = loop.create_future()
            # Shared by all that one reading brings.
            loop.call_soon(self._sync)
        return self._next_sync

    def _sync(self) -> None:
        assert self._next_sync is not None
        synced, self._next_sync = self._next_sync, None
        self._ask_twice(synced)

    def _ask_twice(self, synced: asyncio.Future[None]) -> None:
        """The first answer comes behind news of owners, the second behind those of their PIDs."""

        def on_reply(_reply: Message | DBusError) -> None:
            if self._news:
                self._request(of_bus("GetId"), lambda _: synced.set_result(None), lost=again)
            else:
                synced.set_result(None)

        def again() -> None:
            self._ask_twice(synced)

        self._request(of_bus("GetId"), on_reply, lost=again)

    def _request(
        self,
        question: Message,
        on_reply: Callable[[Message | DBusError], None],
        lost: Callable[[], None],
    ) -> None:
        """Ask the bus; ``lost`` is called once there is a new connection to ask again."""

        def on_answer(reply: Message | DBusError) -> None:
            if isinstance(reply, Disconnected):
                self._unanswered.append(lost)
            else:
                on_reply(reply)

        if self._connection is None:
            self._unanswered.append(lost)
        else:
            self._connection.request(question, on_answer)

    # -- what the bus says -----------------------------------------------------------

    def sift(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """Drop what does not concern us, and join the changes of one name.

        Changes of different names are independent, and only an answer says how far the
        bus had come: so those of one name may be joined up to the next answer.
        """
        changes: dict[bytes, list[bytes]] = {}
        refusals = 0
        now = asyncio.get_running_loop().time()
        for frame in frames:
            kind = peek.kind(frame)
            if kind == wire.SIGNAL:
                name = peek.first_string(frame)
                if name in self._in_frames and self._is_change(frame):
                    if self._flips.too_many(name, now):
                        self._mute(name)
                    kept = changes.setdefault(name, [])
                    del kept[_CHANGES - 1 :]
                    kept.append(frame)
            elif kind == wire.CALL:
                refusals += 1
                if refusals <= _REFUSALS:
                    yield frame
            else:
                yield from itertools.chain.from_iterable(changes.values())
                changes.clear()
                yield frame
        yield from itertools.chain.from_iterable(changes.values())

    def _is_change(self, frame: bytes) -> bool:
        """A client may send us a signal that looks like one, but not with this sender."""
        fields = peek.fields(frame)
        # Mostly the bus writes the same ones each time.
        if fields != self._fields_of_change:
            if peek.field(frame, peek.SENDER) != DRIVER.encode():
                return False
            if peek.field(frame, peek.MEMBER) != b"NameOwnerChanged":
                return False
            self._fields_of_change = fields
        return True

    def _on_message(self, connection: Connection, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            name, _old, owner = message.body
            self._note(name, owner)
        else:
            connection.refuse(message)

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

        def on_reply(reply: Message | DBusError) -> None:
            pid = _pid(reply)
            news.tell = lambda: self._acquired(name, owner, pid, heard)
            self._tell(name)

        def ask() -> None:
            self._request(of_bus("GetConnectionUnixProcessID", "s", [owner]), on_reply, lost=ask)

        self._add(name, news)
        ask()

    def _acquired(self, name: str, owner: str, pid: int | None, heard: float) -> None:
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


def _rule(key: str, value: str) -> str:
    return (
        f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='NameOwnerChanged',"
        f"path='{DRIVER_PATH}',{key}='{value}'"
    )


def _owner(reply: Message | DBusError) -> str:
    # The only error that there is says that nobody does.
    return "" if isinstance(reply, DBusError) else str(reply.body[0])


def _pid(reply: Message | DBusError) -> int | None:
    if not isinstance(reply, DBusError):
        return int(reply.body[0])
    gone = isinstance(reply, RemoteError) and reply.name == NAME_HAS_NO_OWNER
    return None if gone else 0
