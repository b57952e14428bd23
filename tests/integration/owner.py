"""A client that owns the broker's name on a bus of others, and answers as it was set to."""

from __future__ import annotations

import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

from broker.api import paths
from broker.bus import marshalling, wire
from broker.bus.blocking import BlockingConnection
from broker.errors import Disconnected
from tests.aio_client import BUS_NAME, PROCESS, ROOT, SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NAME = "org.example.Service"
PATH = f"{ROOT}/service/org_2eexample_2eService"

# What an answer is: its signature and its arguments; None is silence.
Answer = tuple[str, list[Any]] | None
_INTERFACES = {each.name: each for each in (paths.MANAGER, paths.SERVICE, paths.PROCESS)}


class Owner:
    """A client that owns the name, and answers every call by a function.

    Attributes:
        asked: the members of the calls that it got, in their order.
        answer: takes a call and gives its answer.
    """

    def __init__(self, where: str, answer: Callable[[wire.Received], Answer]) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self.answer = answer
        self._connection = _Answering.connect(where)
        self._connection.owner_of_all = self
        # In the queue of the owner before, whose end the bus may not have seen yet.
        self._connection.call_bus("RequestName", "su", BUS_NAME, 0)
        while (signal := self._connection.signal(None)) and signal.body[:1] != [BUS_NAME]:
            pass
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def _serve(self) -> None:
        try:
            while True:
                self._connection.wait(None)
        except Disconnected:
            self._connection.close()

    def leave(self) -> None:
        """End the connection; may be called again."""
        self._connection.shut()
        self._thread.join()

    def return_late(self, call: wire.Received, signature: str, *body: Any) -> None:
        """Answer a call after others; from within the function that answers them."""
        fields = {"reply_serial": call.serial, "destination": call.sender}
        self._connection.put(wire.RETURN, signature, body, fields)

    def emit(self, interface: str, member: str, signature: str, *body: Any, path: str) -> None:
        """A signal to everybody."""
        self._connection.emit(interface, member, signature, body, path)

    def until_asked(self, *members: str) -> None:
        """Wait until this number of calls has come, of these members in any order."""
        left = list(members)
        while left:
            member = self.asked.get(timeout=20)
            if member in left:
                left.remove(member)


class _Answering(BlockingConnection):
    owner_of_all: Owner

    def _refuse(self, call: wire.Received) -> None:
        answer = self.owner_of_all.answer(call)
        if answer is not None:
            signature, body = answer
            kind = wire.RETURN
            fields: dict[str, Any] = {"reply_serial": call.serial, "destination": call.sender}
            if signature == "error":
                kind, signature = wire.ERROR, "s"
                fields["error_name"] = "org.example.Error"
            self.put(kind, signature, tuple(body), fields)
        self.owner_of_all.asked.put(call.member)

    def emit(
        self, interface: str, member: str, signature: str, body: tuple[Any, ...], path: str
    ) -> None:
        fields = {"path": path, "interface": interface, "member": member}
        self.put(wire.SIGNAL, signature, body, fields)

    def put(self, kind: int, signature: str, body: tuple[Any, ...], fields: dict[str, Any]) -> None:
        self._serial += 1
        self._write(wire.encode(kind, self._serial, signature, body, **fields))

    def shut(self) -> None:
        """Have the thread that waits here hear of an end."""
        try:
            shut = socket.socket(fileno=os.dup(self.fileno()))
        except OSError:
            return
        with shut:
            shut.shutdown(socket.SHUT_RDWR)


class Broker:
    """The answers that a broker with one service could give, with values as told.

    Args:
        text: of every string that is no name.
        number: of every number.
        values: of properties, by their names; a pair has a type of its own, and a
            property that is None is not there.
    """

    def __init__(self, text: str = "x", number: int = 1, **values: Any) -> None:
        self.text = text
        self.number = number
        # Properties that no interface has.
        self.more: dict[str, tuple[str, Any]] = {}
        self.values = {
            "Name": NAME,
            "ServiceName": NAME,
            "ActiveState": "active",
            "State": "running",
            "Origin": "spawned",
        } | values

    def __call__(self, call: wire.Received) -> Answer:
        if call.member == "GetAll":
            return "a{sv}", [self.properties(call.body[0])]
        if call.member == "Get":
            return "v", [self.properties(call.body[0])[call.body[1]]]
        if call.member == "GetManagedObjects":
            objects = {PATH: {SERVICE: self.properties(SERVICE)}}
            objects[f"{ROOT}/process/1"] = {PROCESS: self.properties(PROCESS)}
            return "a{oa{sa{sv}}}", [objects]
        signature = paths.MANAGER.methods[call.member].results
        state = self.values["ActiveState"]
        state = state if isinstance(state, str) else "gone"
        row: list[Any] = []
        if call.member == "ListServices":
            row = [self.values["Name"], PATH, state, self.number]
        elif call.member == "ListServiceStates":
            sub, result = self.values.get("SubState", self.text), self.text
            row = [self.values["Name"], PATH, True, state, sub, result, 0, 0, self.number]
        if row:
            return signature, [[row]]
        return signature, [self.make(each) for each in marshalling.types(signature)]

    def properties(self, interface: str) -> dict[str, Any]:
        """Every property of an interface, as variants to be written."""
        found = {}
        for name, about in _INTERFACES[interface].properties.items():
            value = self.values.get(name, self.make(about.signature))
            if value is not None:
                found[name] = value if isinstance(value, tuple) else (about.signature, value)
        return found | self.more

    def make(self, kind: str) -> Any:
        """A value of a type."""
        if kind == "s":
            return self.text
        if kind == "o":
            return PATH
        if kind == "ay":
            return b"x"
        if kind == "a{sv}":
            return {self.text: ("s", self.text)}
        if kind[0] == "a":
            return [self.make(kind[1:])]
        if kind[0] == "(":
            return [self.make(each) for each in marshalling.types(kind[1:-1])]
        return bool(self.number) if kind == "b" else self.number


def every(signature: str, *body: Any) -> Callable[[wire.Received], Answer]:
    """The same answer to every call."""
    return lambda _call: (signature, list(body))
