"""Two interfaces that fail in every way, and a server of objects with a raw client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final
from xml.etree import ElementTree as ET

from broker.bus.codec import MessageType
from broker.bus.objects import Interface, ObjectServer
from broker.errors import AccessDenied, Broken, RemoteError, StartLimitHit
from tests.bus import wire
from tests.bus.peer import PATIENCE, Peer

if TYPE_CHECKING:
    from broker.bus.connection import Connection
    from broker.bus.interface import InterfaceSpec

TEST: Final = "org.example.Test"
MORE: Final = "org.example.More"
ROOT: Final = "/org/example"
PEER: Final = "org.freedesktop.DBus.Peer"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
MACHINE_ID: Final = "fedcba9876543210fedcba9876543210"

TEST_XML = f"""\
<node>
 <interface name="{TEST}">
  <annotation name="org.example.Note" value="of the interface"/>
  <method name="Echo">
   <arg name="number" type="u" direction="in"/>
   <arg name="text" type="s" direction="in"/>
   <arg name="answer" type="(us)" direction="out"/>
  </method>
  <method name="Caller">
   <arg name="key" type="s" direction="in"/>
   <arg name="unique_name" type="s" direction="out"/>
  </method>
  <method name="Fail">
   <arg name="how" type="s" direction="in"/>
  </method>
  <method name="Nothing"/>
  <property name="Name" type="s" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
  </property>
  <property name="Count" type="u" access="read"/>
  <signal name="Happened">
   <arg name="what" type="s"/>
  </signal>
 </interface>
</node>
"""
MORE_XML = f"""\
<node>
 <interface name="{MORE}">
  <method name="Nothing">
   <arg name="unlike" type="s" direction="in"/>
  </method>
  <method name="Extra">
   <arg name="answer" type="s" direction="out"/>
  </method>
  <property name="Extra" type="as" access="read"/>
 </interface>
</node>
"""


class Test(Interface):
    """Fails in every way, and names its caller."""

    __test__ = False
    spec: ClassVar[InterfaceSpec]

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[str] = []
        # Callers wait at a key until another one opens it.
        self.gates: dict[str, asyncio.Event] = {}
        self.broken = False

    def get(self, name: str) -> Any:
        if self.broken:
            raise RuntimeError("/secret/path")
        return {"Name": self.name, "Count": len(self.calls)}[name]

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        self.calls.append(member)
        if member == "Echo":
            return [arguments]
        if member == "Caller":
            if arguments[0] in self.gates:
                await self.gates[arguments[0]].wait()
            return [caller]
        if member == "Fail":
            self._fail(arguments[0])
        return [1, 2] if arguments == ["body"] else []

    def _fail(self, how: str) -> None:
        match how:
            case "outcome":
                raise StartLimitHit("failed too often")
            case "denied":
                raise AccessDenied("")
            case "fault":
                raise RuntimeError("/secret/path")
            case "broken":
                raise Broken("half-way")


class More(Interface):
    """A second one on the same object."""

    spec: ClassVar[InterfaceSpec]

    def get(self, name: str) -> Any:
        return [name]

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        del arguments, caller
        return ["more"] if member == "Extra" else []


class Served:
    """An object server and a raw client of it."""

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self.connection = connection
        self.peer = peer
        self.server = ObjectServer(ROOT, MACHINE_ID)
        self.server.serve(connection)
        self.test = Test("one")
        connection.on_message = self.server.handle
        self._serial = 0

    async def send(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *arguments: Any,
        flags: int = 0,
        sender: str = ":1.7",
    ) -> int:
        """Call, and return the serial."""
        self._serial += 1
        await self.peer.write(
            wire.call(
                path,
                interface,
                member,
                signature,
                list(arguments),
                serial=self._serial,
                flags=flags,
                sender=sender,
            )
        )
        return self._serial

    async def call(
        self, path: str, interface: str | None, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        """Call, and return what the answer holds."""
        serial = await self.send(path, interface, member, signature, *arguments)
        async with asyncio.timeout(PATIENCE):
            answer = await self.peer.read()
        assert answer.reply_serial == serial, answer.body
        assert answer.destination == ":1.7"
        if answer.message_type is MessageType.ERROR:
            raise RemoteError(answer.error_name, answer.body[0])
        return list(answer.body)

    async def introspect(self, path: str) -> ET.Element:
        """The parsed description of a path."""
        (text,) = await self.call(path, INTROSPECTABLE, "Introspect")
        return ET.fromstring(text)
