"""Objects on the bus: the dispatch of method calls, and the standard errors.

dbus-next's own server is not used: it sends tracebacks to callers, hides the
caller's name, answers for objects that do not exist, and emits ObjectManager's
signals from the wrong path.
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.bus import interface, peek, wire
from broker.bus.codec import SMALL, Message, MessageType, Variant, signal, size
from broker.bus.exported import Interface
from broker.errors import (
    AccessDenied,
    Broken,
    DBusError,
    InvalidArgs,
    LimitsExceeded,
    PropertyReadOnly,
    UnknownInterface,
    UnknownMethod,
    UnknownObject,
    UnknownProperty,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
    from contextlib import AbstractContextManager

    from broker.bus.connection import Connection
    from broker.bus.interface import InterfaceSpec

    # Member, arguments, caller; to the results.
    _Work = Callable[[str, list[Any], str], Coroutine[Any, Any, list[Any]]]

__all__ = [
    "INTROSPECTABLE",
    "OBJECT_MANAGER",
    "PEER",
    "PROPERTIES",
    "UNDER_WAY",
    "Interface",
    "ObjectServer",
]

log = logging.getLogger(__name__)

_XML: Final = os.path.join(os.path.dirname(__file__), "xml")
PEER: Final = interface.load(_XML, "org.freedesktop.DBus.Peer")
INTROSPECTABLE: Final = interface.load(_XML, "org.freedesktop.DBus.Introspectable")
PROPERTIES: Final = interface.load(_XML, "org.freedesktop.DBus.Properties")
OBJECT_MANAGER: Final = interface.load(_XML, "org.freedesktop.DBus.ObjectManager")

# The limit of one caller's pending calls, in bytes: a thousand small calls. Calls above
# it are refused, and other callers are not affected. (The reference has such a limit for
# each connection, max_replies_per_connection.)
UNDER_WAY: Final = 1 << 20

_FAULT: Final = "fault: %s, called by %s"

_DOCTYPE: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


class _Caller:
    """The pending calls of one client; exists while there are any."""

    __slots__ = ("size", "turn")

    def __init__(self) -> None:
        self.size = 0
        self.turn = asyncio.Lock()


class ObjectServer:
    """The tree of objects of one connection, with the standard interfaces.

    Args:
        root: the path of the one ObjectManager, which manages all below it.
        machine_id: the answer to Peer.GetMachineId.

    Attributes:
        before_reply: awaited before each answer: signals about the answer's content must
            be sent first, so that a subscriber is never behind a caller. Also awaited
            before each reading of properties, so that a property that changes by its
            announcement does not change between the reading and the answer.
        before_call: awaited before a call that may depend on earlier events elsewhere on
            the bus.
        silent: whether signals have no receiver, as at first: they wait, and so do answers.
        require_privilege: awaited with the caller's unique name before it reads private
            properties; raises AccessDenied.
        discreet: whether signals may reach other users: private properties are empty in them.
        on_fault: called for each call that failed by a bug of ours.
        on_oversize: called for each signal that was dropped as too large for the bus.
    """

    _connection: Connection  # from ``serve`` on

    def __init__(self, root: str, machine_id: str) -> None:
        self._root = root
        self._machine_id = machine_id
        self.before_reply: Callable[[], Awaitable[None]] = _nothing
        self.before_call: Callable[[], Awaitable[None]] = _nothing
        self.silent = True
        self.require_privilege: Callable[[str], Awaitable[None]] = _everybody
        self.discreet = False
        self.on_fault: Callable[[], None] = lambda: None
        self.on_oversize: Callable[[], None] = lambda: None
        self._objects: dict[str, tuple[Interface, ...]] = {}
        # Parent path to names of children, including paths without an object of their own.
        self._children: dict[str, dict[str, int]] = {"/": {}}
        # asyncio keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: dict[str, _Caller] = {}
        self._turn = asyncio.Lock()

    def serve(self, connection: Connection) -> None:
        """Serve on a connection; pending answers on the previous one are lost.

        Args:
            connection: its ``on_message`` should lead to ``handle``, and ``sift`` to ``sift``.
        """
        self._connection = connection

    # -- the tree --------------------------------------------------------------

    def add(self, path: str, *interfaces: Interface) -> None:
        """Add an object at a free path."""
        assert path not in self._objects, path
        self._objects[path] = interfaces
        for parent, name in _steps(path):
            children = self._children.setdefault(parent, {})
            children[name] = children.get(name, 0) + 1

    def remove(self, path: str) -> None:
        """Remove an object."""
        del self._objects[path]
        for parent, name in _steps(path):
            children = self._children[parent]
            children[name] -= 1
            if not children[name]:
                del children[name]
                if not children and parent != "/":
                    del self._children[parent]

    def _check_exists(self, path: str) -> None:
        if path not in self._objects and path not in self._children:
            raise UnknownObject(f"there is no object at {path}")

    # -- signals ---------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether signals should wait: the peer has not taken the previous ones."""
        return self.silent or not self._connection.is_writable

    def together(self) -> AbstractContextManager[None]:
        """Signals within this context leave at its end, in one piece."""
        return self._connection.corked()

    def emit_added(self, path: str) -> None:
        """Signal a new object, from the manager's path as the specification requires."""
        described = self._describe(path, trusted=not self.discreet)
        self._emit(self._root, OBJECT_MANAGER, "InterfacesAdded", [path, described])

    def emit_removed(self, path: str, interfaces: list[str]) -> None:
        """Signal a removed object."""
        self._emit(self._root, OBJECT_MANAGER, "InterfacesRemoved", [path, interfaces])

    def emit_changed(
        self, path: str, spec: InterfaceSpec, changed: dict[str, Any], invalidated: list[str]
    ) -> None:
        """Signal new values of properties, or invalidate them."""
        values = {
            name: Variant(spec.properties[name].signature, value) for name, value in changed.items()
        }
        self._emit(path, PROPERTIES, "PropertiesChanged", [spec.name, values, invalidated])

    def emit(self, path: str, spec: InterfaceSpec, member: str, body: list[Any]) -> None:
        """Send a signal that is defined in the XML."""
        self._emit(path, spec, member, body)

    def _emit(self, path: str, spec: InterfaceSpec, member: str, body: list[Any]) -> None:
        try:
            self._connection.send(signal(path, spec.name, member, spec.signals[member], body))
        except LimitsExceeded as e:
            log.warning("%s of %s is not sent: %s", member, path, e)
            self.on_oversize()

    def _describe(self, path: str, *, trusted: bool) -> dict[str, dict[str, Variant]]:
        return {each.spec.name: each.get_all(trusted=trusted) for each in self._objects[path]}

    # -- calls -----------------------------------------------------------------

    def sift(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """Drop frames early that would be dropped after decoding.

        Objects take no signals. A call without a wanted answer, from a sender at its limit,
        would be refused silently.
        """
        for frame in frames:
            kind = peek.kind(frame)
            if kind == wire.SIGNAL:
                continue
            if kind == wire.CALL and peek.flags(frame) & wire.NO_REPLY_EXPECTED:
                sender = peek.field(frame, peek.SENDER).decode(errors="replace")
                caller = self._callers.get(sender)
                if caller is not None and caller.size + SMALL > UNDER_WAY:
                    continue
            yield frame

    def handle(self, call: Message) -> None:
        """Answer a method call, now or from a task; ignore signals."""
        if call.message_type is not MessageType.METHOD_CALL:
            return
        connection = self._connection
        try:
            found = self._find(call)
            caller = self._admit(call)
        except DBusError as e:
            connection.reply_error(call, e)
            return
        except Exception:
            log.exception(_FAULT, call.member, call.sender)
            self._failed(connection, call)
            return
        task = asyncio.get_running_loop().create_task(
            self._answer(connection, call, caller, *found)
        )
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, call))

    def _admit(self, call: Message) -> _Caller:
        """Count a call as pending, unless its sender is at its limit."""
        caller = self._callers.get(call.sender) or _Caller()
        if caller.size + size(call) > UNDER_WAY:
            raise LimitsExceeded(
                f"{call.sender} has {caller.size} bytes of pending calls, and this one "
                f"of {size(call)} would make them more than {UNDER_WAY}"
            )
        caller.size += size(call)
        self._callers[call.sender] = caller
        return caller

    def _done(self, call: Message, task: asyncio.Task[None]) -> None:
        caller = self._callers[call.sender]
        caller.size -= size(call)
        if not caller.size:
            del self._callers[call.sender]
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            # It concerns more than the caller: report it to the loop's handler.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a method handler failed", "exception": fault, "task": task}
            )

    async def _answer(
        self, connection: Connection, call: Message, caller: _Caller, results: str, work: _Work
    ) -> None:
        try:
            await self._carry_out(connection, call, caller, results, work)
        except Broken:
            _refuse(connection, call)
            raise
        except Exception:
            log.exception(_FAULT, call.member, call.sender)
            self._failed(connection, call)

    def _failed(self, connection: Connection, call: Message) -> None:
        """A bug of ours: the reason is in the log, the caller gets Failed."""
        self.on_fault()
        _refuse(connection, call)

    async def _carry_out(
        self, connection: Connection, call: Message, caller: _Caller, results: str, work: _Work
    ) -> None:
        try:
            if call.interface not in (PEER.name, INTROSPECTABLE.name):
                await self.before_call()
            # One read can bring thousands of calls with large answers: each begins
            # when the peer has taken most of the answers before. Both locks are fair, so
            # a caller's first call waits for one call of each other caller, not for all.
            async with caller.turn, self._turn:
                await asyncio.sleep(0)  # let the callers of the same read queue up
                await connection.wait_writable()
            body = await work(call.member, call.body, call.sender)
            await self.before_reply()
            # Here, since results with other types than the XML's are a bug as well.
            connection.reply(call, results, body)
        except DBusError as e:
            await self.before_reply()
            connection.reply_error(call, e)

    async def finish(self) -> None:
        """Return when every received call has been answered."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find(self, call: Message) -> tuple[str, _Work]:
        """The results' signature and the work; raises the standard errors, in their order."""
        path, member = call.path, call.member
        # "On receipt of the METHOD_CALL message org.freedesktop.DBus.Peer.Ping, an
        # application should do nothing other than reply. It does not matter which
        # object path a ping is sent to."
        if call.interface != PEER.name:
            self._check_exists(path)
        handlers = {
            PEER.name: self._peer,
            INTROSPECTABLE.name: self._introspect,
            PROPERTIES.name: self._properties,
            OBJECT_MANAGER.name: self._managed,
        }
        candidates: dict[str, tuple[InterfaceSpec, _Work]] = {
            each.spec.name: (each.spec, each.call) for each in self._objects.get(path, ())
        }
        for spec in self._standard(path):
            candidates[spec.name] = (spec, partial(handlers[spec.name], path))
        if call.interface is not None:
            if call.interface not in candidates:
                raise UnknownInterface(f"{path} has no interface {call.interface}")
            candidates = {call.interface: candidates[call.interface]}
        # "The INTERFACE field is optional … if it is left out, the first method
        # with this name on any interface of the object".
        for spec, work in candidates.values():
            if member in spec.methods:
                method = spec.methods[member]
                if call.signature != method.arguments:
                    raise InvalidArgs(
                        f"{member} takes arguments of type ({method.arguments}), "
                        f"not ({call.signature})"
                    )
                return method.results, work
        where = call.interface or path
        raise UnknownMethod(f"{where} has no method {member}")

    # -- standard interfaces ---------------------------------------------------

    def _standard(self, path: str) -> list[InterfaceSpec]:
        specs = [PEER, INTROSPECTABLE]
        if path in self._objects:
            specs.append(PROPERTIES)
        if path == self._root:
            specs.append(OBJECT_MANAGER)
        return specs

    async def _peer(
        self, _path: str, member: str, _arguments: list[Any], _caller: str
    ) -> list[Any]:
        return [] if member == "Ping" else [self._machine_id]

    async def _introspect(
        self, path: str, _member: str, _arguments: list[Any], _caller: str
    ) -> list[Any]:
        self._check_exists(path)  # again: it may have gone since the call was read
        specs = self._standard(path)
        specs += [each.spec for each in self._objects.get(path, ())]
        children = "".join(f'<node name="{name}"/>\n' for name in self._children.get(path, ()))
        return [f"{_DOCTYPE}<node>\n{''.join(spec.xml for spec in specs)}{children}</node>\n"]

    async def _managed(
        self, _path: str, _member: str, _arguments: list[Any], caller: str
    ) -> list[Any]:
        trusted = await self._is_trusted(caller)
        await self.before_reply()
        below = self._root.rstrip("/") + "/"
        found: dict[str, dict[str, dict[str, Variant]]] = {}
        # Reading an object can create others (an orphan is found by a search): they are
        # signalled as new before this answer, so they must be in it.
        while new := [
            path
            for path in self._objects
            if path.startswith(below) and path != self._root and path not in found
        ]:
            for path in new:
                found[path] = self._describe(path, trusted=trusted)
        return [found]

    async def _properties(
        self, path: str, member: str, arguments: list[Any], caller: str
    ) -> list[Any]:
        # First of all: values that are read after the last wait are as new as the answer.
        trusted = await self._may_read(path, member, arguments, caller)
        await self.before_reply()
        self._check_exists(path)
        objects = self._objects.get(path, ())
        name = arguments[0]
        chosen = [each for each in objects if name in ("", each.spec.name)]
        if not chosen and name not in {spec.name for spec in self._standard(path)}:
            raise UnknownInterface(f"{path} has no interface {name}")
        if member == "GetAll":
            found = [each.get_all(trusted=trusted) for each in chosen]
            return [{key: value for each in found for key, value in each.items()}]
        for each in chosen:
            if arguments[1] in each.spec.properties:
                if member == "Set":
                    raise PropertyReadOnly(f"{arguments[1]} cannot be set")
                spec = each.spec.properties[arguments[1]]
                return [Variant(spec.signature, each.get(arguments[1]))]
        raise UnknownProperty(f"{name or path} has no property {arguments[1]}")

    async def _may_read(self, path: str, member: str, arguments: list[Any], caller: str) -> bool:
        """Whether the caller may read private properties; checked only if it asks for some.

        Raises:
            AccessDenied: it may not, and asks for a single one.
        """
        chosen = [
            each for each in self._objects.get(path, ()) if arguments[0] in ("", each.spec.name)
        ]
        if member == "GetAll":
            return not any(each.private for each in chosen) or await self._is_trusted(caller)
        if member == "Get" and any(arguments[1] in each.private for each in chosen):
            await self.require_privilege(caller)
        return True

    async def _is_trusted(self, caller: str) -> bool:
        try:
            await self.require_privilege(caller)
        except AccessDenied:
            return False
        return True


async def _nothing() -> None:
    pass


def _refuse(connection: Connection, call: Message) -> None:
    connection.reply_error(call, DBusError(f"{call.member} failed in the broker"))


async def _everybody(_caller: str) -> None:
    pass


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """Each (parent, child name) on the way from the root to a path."""
    parent = "/"
    for name in filter(None, path.split("/")):
        yield parent, name
        parent = f"{parent.rstrip('/')}/{name}"
