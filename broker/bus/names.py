"""Follows the owners of our services' names, by the bus's signals."""

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

# The changes of one name that one read may pass on between two answers: the first ones and
# the last. These show that the name was taken and lost, and the current owner; the rest come
# from a client that flips the name thousands of times a second.
_CHANGES: Final = 8
# The calls of one read that get a refusal; the rest get no answer. This connection serves no
# objects, so no client has a reason to call it.
_REFUSALS: Final = 16
# The maximum of concurrent questions about names; a session has some dozens of names.
_ASKED: Final = 4096


class NameEvents(Protocol):
    """The callbacks of a watch, from within the event loop."""

    def name_acquired(self, name: str, owner: str, pid: int | None, heard: float) -> None:
        """A connection owns the name now.

        Args:
            pid: of its process; None if the connection has closed already, 0 if the bus
                does not know it, as for a process in another PID namespace.
            heard: the time of the bus's signal, before its answer with the PID: in seconds
                on the event loop's clock.
        """

    def name_lost(self, name: str) -> None:
        """The name has no owner any more."""


@dataclass(slots=True)
class _News:
    tell: Callable[[], None] | None = None  # None: the PID is not known yet


class NameWatch:
    """Follows NameOwnerChanged for a set of names, and asks for each new owner's PID.

    A PID takes a round trip. Other changes of the name during that time are queued, so
    that callbacks come in the bus's order. The loss of the connection causes no callbacks:
    no owner has changed. ``resume`` goes on with another connection, and repeats the
    unanswered questions.

    The watch has a connection of its own. A client that flips a name fills this connection's
    queue at the bus, and calls of our objects would wait behind that.

    Args:
        max_rules: up to this number, each name has its own match rule. Above it, names with
            a common beginning share a rule: for a bus that compares each change with each rule.
    """

    def __init__(self, events: NameEvents, max_rules: int) -> None:
        self._events = events
        self._max_rules = max_rules
        self._connection: Connection | None = None
        self._names: set[str] = set()
        self._in_frames: set[bytes] = set()  # the same names
        self._rules: set[str] = set()  # as the bus has them
        self._changing = asyncio.Lock()  # of the rules
        # By the last note; a name without an owner may be absent.
        self._owners: dict[str, str] = {}
        self._news: dict[str, deque[_News]] = {}
        # Repeats the questions that a lost connection left unanswered.
        self._unanswered: list[Callable[[], None]] = []
        self._next_sync: asyncio.Future[None] | None = None
        self._flips = Flips()
        self._fields_of_change = b""  # those of the last one
        # Names that are not followed for a while, since a client flips them.
        self._muted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the set of names --------------------------------------------------------

    async def watch(self, names: Collection[str]) -> None:
        """Follow exactly these names; for a name with an owner, ``name_acquired`` is called.

        Without a connection, this happens on the next one.

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

        All owners are asked for anew. An owner that came and went between the connections
        goes unnoticed, but no question was answered in that time, either.

        Raises:
            DBusError: the bus refuses, or has closed this connection as well.
        """
        self._rules = set()
        connection.on_message = partial(self._on_message, connection)
        connection.sift = self.sift
        await self._set_rules(connection)
        # Not before: an answer must come after the owners noted here.
        self._connection = connection
        with connection.corked():
            self._note_owners(self._names)
            unanswered, self._unanswered = self._unanswered, []
            for ask in unanswered:
                ask()

    def forget(self, name: str) -> None:
        """Stop following a name; if it is watched again, its owner is asked for anew."""
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
        # Unique names begin with a colon, so clients that connect or leave do not wake us.
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
        """Stop following a name for a while, then ask for its owner.

        dbus-broker accepts changes faster than it delivers them to one client: the queue would
        grow, and the other names' changes would come seconds late.
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
        """Ask for a name's owner; all earlier changes are reported before the answer."""

        def on_reply(reply: Message | DBusError) -> None:
            owner = _owner(reply)
            self._note(name, owner)  # for a muted name, it may be a change
            self._add(name, _News(lambda: on_answer(owner)))

        self._request(
            of_bus("GetNameOwner", "s", [name]), on_reply, lost=lambda: self.ask(name, on_answer)
        )

    def ask_processes(self, on_answer: Callable[[frozenset[int]], None]) -> None:
        """Ask for the PIDs of all owners of well-known names, as far as the bus knows them.

        No answer comes if the bus refuses, or before there is a connection.
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
        """Done when all changes that the bus had sent before this call have been reported."""
        if self._next_sync is None:
            loop = asyncio.get_running_loop()
            self._next_sync = loop.create_future()
            # Shared by all messages of one read.
            loop.call_soon(self._sync)
        return self._next_sync

    def _sync(self) -> None:
        assert self._next_sync is not None
        synced, self._next_sync = self._next_sync, None
        self._ask_twice(synced)

    def _ask_twice(self, synced: asyncio.Future[None]) -> None:
        """The first answer comes after the changes of owners, the second after their PIDs."""

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
        """Call the bus; if the connection is lost, ``lost`` is called on the next one."""

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
        """Drop irrelevant frames, and merge the changes of one name.

        Changes of different names are independent, and only an answer marks a point in the
        bus's order: so those of one name may be merged up to the next answer.
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
        """Checks the sender: a client may send us a lookalike signal, but not with the bus's."""
        fields = peek.fields(frame)
        # The bus mostly writes the same fields.
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
        # At the beginning of a watch, a change can come both as a signal and as an answer.
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
    # The only possible error means that there is no owner.
    return "" if isinstance(reply, DBusError) else str(reply.body[0])


def _pid(reply: Message | DBusError) -> int | None:
    if not isinstance(reply, DBusError):
        return int(reply.body[0])
    gone = isinstance(reply, RemoteError) and reply.name == NAME_HAS_NO_OWNER
    return None if gone else 0
