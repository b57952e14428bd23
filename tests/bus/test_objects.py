"""The objects, as raw messages and as the clients that people use see them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio

from broker.bus import address, interface
from broker.bus.codec import SMALL, Message, MessageFlag, MessageType, Variant
from broker.bus.connection import Connection
from broker.bus.objects import UNDER_WAY, Interface, ObjectServer
from broker.errors import FDO, AccessDenied, Outcome, RemoteError, StartLimitHit
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log, Peer, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.bus.interface import InterfaceSpec

pytestmark = pytest.mark.asyncio

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
    """Fails in every way, and says who calls."""

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


class More(Interface):
    """A second one on the same object."""

    spec: ClassVar[InterfaceSpec]

    def get(self, name: str) -> Any:
        return [name]

    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        del arguments, caller
        return ["more"] if member == "Extra" else []


@pytest.fixture(autouse=True)
def specs(tmp_path: Path) -> None:
    for kind, name, text in ((Test, TEST, TEST_XML), (More, MORE, MORE_XML)):
        (tmp_path / f"{name}.xml").write_text(text)
        kind.spec = interface.load(str(tmp_path), name)


class Served:
    """An object server and a raw client of it."""

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self.connection = connection
        self.peer = peer
        self.server = ObjectServer(connection, ROOT, MACHINE_ID)
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


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    """Objects at the root and below it, and one in between that is only a way."""
    async with connected() as (connection, peer):
        served = Served(connection, peer)
        served.server.add(ROOT, served.test)
        served.server.add(f"{ROOT}/way/one", Test("one"), More())
        served.server.add(f"{ROOT}/way/two", Test("two"))
        yield served
        for gate in served.test.gates.values():
            gate.set()
        async with asyncio.timeout(PATIENCE):
            await served.server.finish()


# -- the standard errors -------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "interface", "member", "arguments", "error", "names"),
    [
        ("/no", TEST, "Echo", ("us", 1, "a"), "UnknownObject", "/no"),
        ("/no", None, "Echo", (), "UnknownObject", "/no"),
        ("/no", INTROSPECTABLE, "Introspect", (), "UnknownObject", "/no"),
        ("/no", PROPERTIES, "GetAll", ("s", TEST), "UnknownObject", "/no"),
        ("/no", MANAGER, "GetManagedObjects", (), "UnknownObject", "/no"),
        (f"{ROOT}/way/one/x", TEST, "Echo", (), "UnknownObject", f"{ROOT}/way/one/x"),
        ("/or", INTROSPECTABLE, "Introspect", (), "UnknownObject", "/or"),
        (ROOT, "org.example.No", "Echo", (), "UnknownInterface", "org.example.No"),
        (ROOT, MORE, "Extra", (), "UnknownInterface", MORE),
        (f"{ROOT}/way", TEST, "Echo", (), "UnknownInterface", TEST),
        (f"{ROOT}/way", PROPERTIES, "GetAll", ("s", ""), "UnknownInterface", PROPERTIES),
        (f"{ROOT}/way/one", MANAGER, "GetManagedObjects", (), "UnknownInterface", MANAGER),
        ("/", MANAGER, "GetManagedObjects", (), "UnknownInterface", MANAGER),
        (ROOT, TEST, "No", (), "UnknownMethod", "No"),
        (ROOT, None, "No", (), "UnknownMethod", "No"),
        (ROOT, TEST, "Happened", ("s", "a"), "UnknownMethod", "Happened"),
        (ROOT, TEST, "Introspect", (), "UnknownMethod", "Introspect"),
        ("/no", PEER, "Pong", (), "UnknownMethod", "Pong"),
        (ROOT, TEST, "Echo", (), "InvalidArgs", "(us)"),
        (ROOT, TEST, "Echo", ("su", "a", 1), "InvalidArgs", "(su)"),
        (ROOT, TEST, "Echo", ("(us)", (1, "a")), "InvalidArgs", "((us))"),
        (ROOT, TEST, "Nothing", ("s", "a"), "InvalidArgs", "()"),
        (ROOT, PEER, "Ping", ("s", "a"), "InvalidArgs", "Ping"),
        (ROOT, INTROSPECTABLE, "Introspect", ("s", "a"), "InvalidArgs", "Introspect"),
        (ROOT, PROPERTIES, "Get", ("s", TEST), "InvalidArgs", "Get"),
        (ROOT, PROPERTIES, "Get", ("ss", "org.example.No", "Name"), "UnknownInterface", "No"),
        (ROOT, PROPERTIES, "GetAll", ("s", "org.example.No"), "UnknownInterface", "No"),
        (ROOT, PROPERTIES, "GetAll", ("s", MORE), "UnknownInterface", MORE),
        (ROOT, PROPERTIES, "Get", ("ss", TEST, "No"), "UnknownProperty", "No"),
        (ROOT, PROPERTIES, "Get", ("ss", "", "No"), "UnknownProperty", "No"),
        (ROOT, PROPERTIES, "Get", ("ss", PEER, "Name"), "UnknownProperty", "Name"),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", TEST, "No", Variant("s", "a")),
            "UnknownProperty",
            "No",
        ),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", TEST, "Name", Variant("s", "a")),
            "PropertyReadOnly",
            "Name",
        ),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", "", "Count", Variant("u", 1)),
            "PropertyReadOnly",
            "Count",
        ),
    ],
)
async def test_each_mistake_has_its_standard_error(
    served: Served,
    path: str,
    interface: str | None,
    member: str,
    arguments: tuple[Any, ...],
    error: str,
    names: str,
) -> None:
    with pytest.raises(RemoteError) as caught:
        await served.call(path, interface, member, *arguments)
    assert caught.value.name == FDO + error
    assert names in str(caught.value)
    assert not served.test.calls


# -- calls ---------------------------------------------------------------------


async def test_a_method_gets_its_arguments_and_its_results_go_back(served: Served) -> None:
    assert await served.call(ROOT, TEST, "Echo", "us", 7, "ä") == [[7, "ä"]]
    assert await served.call(ROOT, TEST, "Nothing") == []


async def test_a_call_without_an_interface_finds_the_method(served: Served) -> None:
    """It is legal; dbus-next looks for the interface "None"."""
    path = f"{ROOT}/way/one"
    assert await served.call(ROOT, None, "Echo", "us", 7, "a") == [[7, "a"]]
    assert await served.call(path, None, "Extra") == ["more"]
    assert await served.call(path, None, "Nothing") == []
    assert await served.call(path, None, "Ping") == []
    assert await served.call(f"{ROOT}/way", None, "Ping") == []
    assert await served.call(ROOT, None, "Get", "ss", TEST, "Name") == [Variant("s", "one")]


async def test_who_expects_no_reply_gets_none(served: Served) -> None:
    quiet: dict[str, Any] = {"flags": int(MessageFlag.NO_REPLY_EXPECTED)}
    await served.send(ROOT, TEST, "Nothing", **quiet)
    await served.send(ROOT, TEST, "No", **quiet)
    await served.send(ROOT, TEST, "Fail", "s", "outcome", **quiet)
    await served.send(ROOT, PEER, "Ping", **quiet)
    await served.send("/no", TEST, "Nothing", **quiet)
    # The next answer is this one's.
    assert await served.call(ROOT, PEER, "Ping") == []
    assert served.test.calls == ["Nothing", "Fail"]


async def test_signals_and_answers_are_not_for_objects(served: Served) -> None:
    signal: list[wire.Field] = [(wire.INTERFACE, "s", TEST), (wire.PATH, "o", ROOT)]
    await served.peer.write(wire.frame(wire.SIGNAL, [*signal, (wire.MEMBER, "s", "Nothing")]))
    await served.peer.write(wire.answer(1) + wire.error(1, "org.example.Error"))
    assert await served.call(ROOT, PEER, "Ping") == []
    assert served.test.calls == []


async def test_ping_is_answered_on_every_path(served: Served) -> None:
    for path in ("/", ROOT, f"{ROOT}/way", f"{ROOT}/way/one", "/no/such/object"):
        assert await served.call(path, PEER, "Ping") == []
        assert await served.call(path, PEER, "GetMachineId") == [MACHINE_ID]


async def test_the_caller_is_known_also_to_calls_that_overlap(served: Served) -> None:
    served.test.gates = {str(number): asyncio.Event() for number in range(20)}
    serials = {
        await served.send(ROOT, TEST, "Caller", "s", str(number), sender=f":1.{number}"): number
        for number in range(20)
    }
    assert await served.call(ROOT, TEST, "Caller", "s", "") == [":1.7"]
    # asyncio itself holds tasks only weakly.
    gc.collect()
    # All of them are under way now; they end in another order than they began.
    for number in (*range(1, 20, 2), *range(0, 20, 2)):
        served.test.gates[str(number)].set()
        answer = await served.peer.read()
        assert serials[answer.reply_serial] == number
        assert answer.body == [f":1.{number}"]
        assert answer.destination == f":1.{number}"


async def test_a_flood_of_calls_with_large_answers_is_answered_as_the_caller_reads(
    served: Served,
) -> None:
    """One reading brings hundreds of them; all at once would block us, and fill the memory."""
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    answer = 100_000
    served.test.name = "x" * answer
    arguments = ["ss", TEST, "Name"]
    serials = [await served.send(ROOT, PROPERTIES, "Get", *arguments) for _ in range(200)]
    await log.until_length(100)
    await _until_behind(served.connection)
    for _ in range(2 * len(serials)):
        await asyncio.sleep(0)  # now every call that was read has had its turn
    assert 0 < served.connection.behind < 3 * answer
    for serial in serials:
        assert (await served.peer.read()).reply_serial == serial
    assert await served.call(ROOT, PEER, "Ping") == []


async def _until_behind(connection: Connection) -> None:
    while not connection.behind:  # noqa: ASYNC110 - no event: each turn is looked at
        await asyncio.sleep(0)


async def test_callers_take_turns(served: Served) -> None:
    """Who calls much waits for the others, not they for it."""
    get = (ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    greedy = [await served.send(*get, sender=":1.66") for _ in range(200)]
    modest = [await served.send(*get, sender=":1.7") for _ in range(3)]
    order = [(await served.peer.read()).reply_serial for _ in range(203)]
    # All of them came in one reading; what was begun before is answered first.
    assert [each for each in order if each in greedy] == greedy
    assert [each for each in order if each in modest] == modest
    assert order.index(modest[-1]) < 10


async def test_what_one_caller_may_have_under_way_is_bounded(served: Served) -> None:
    served.test.gates["a"] = asyncio.Event()
    most = UNDER_WAY // SMALL
    serials = [
        await served.send(ROOT, TEST, "Caller", "s", "a", sender=":1.66") for _ in range(most + 50)
    ]
    refused = [await served.peer.read() for _ in range(50)]
    assert [each.reply_serial for each in refused] == serials[most:]
    assert {each.error_name for each in refused} == {FDO + "LimitsExceeded"}
    assert ":1.66" in refused[0].body[0]
    # Others are not concerned, and neither is it once it has its answers.
    assert await served.call(ROOT, TEST, "Caller", "s", "") == [":1.7"]
    served.test.gates.pop("a").set()
    answers = {(await served.peer.read()).reply_serial for _ in range(most)}
    assert answers == set(serials[:most])
    await served.send(ROOT, TEST, "Caller", "s", "", sender=":1.66")
    assert (await served.peer.read()).body == [":1.66"]


@pytest.mark.parametrize(
    ("count", "error"), [(100_000, "InvalidArgs"), (300_000, "LimitsExceeded")]
)
async def test_megabytes_that_nobody_wants_are_not_read(
    served: Served, count: int, error: str
) -> None:
    """Into objects, that is: a second for a million integers, and everybody waits."""
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    signature = "ai" if error == "InvalidArgs" else "us"
    content = wire.body("ai", [[7] * count])
    fields: list[wire.Field] = [(wire.PATH, "o", ROOT), (wire.MEMBER, "s", "Echo")]
    fields += [(wire.SENDER, "s", ":1.7"), (wire.SIGNATURE, "g", signature)]
    await served.peer.write(wire.frame(wire.CALL, fields, content))
    answer = await served.peer.read()
    assert answer.error_name == FDO + error
    assert "body" not in vars(log[0])
    assert await served.call(ROOT, PEER, "Ping") == []


async def test_a_large_call_is_read_when_its_turn_has_come(served: Served) -> None:
    text = "x" * 100_000
    assert await served.call(ROOT, TEST, "Echo", "us", 7, text) == [[7, text]]
    # dbus-next's reader is asked then; what is wrong is told the caller.
    fields: list[wire.Field] = [(wire.PATH, "o", ROOT), (wire.MEMBER, "s", "Echo")]
    fields += [(wire.SENDER, "s", ":1.7"), (wire.SIGNATURE, "g", "us")]
    await served.peer.write(wire.frame(wire.CALL, fields, b"\xff" * 2000))
    answer = await served.peer.read()
    assert answer.error_name == FDO + "InvalidArgs"
    assert answer.body[0].startswith("malformed message: ")


async def test_calls_that_wait_for_a_slow_caller_end_with_the_connection(served: Served) -> None:
    served.test.name = "x" * 100_000
    for _ in range(20):
        await served.send(ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    # Some of the first answer has come, and the socket holds no more of it.
    await asyncio.get_running_loop().sock_recv(served.peer.sock, 1)
    await _until_behind(served.connection)
    served.peer.close()
    async with asyncio.timeout(PATIENCE):
        await served.connection.wait_closed()
        await served.server.finish()


async def test_signals_go_out_before_the_answer_that_implies_them(served: Served) -> None:
    async def say() -> None:
        served.server.emit(ROOT, Test.spec, "Happened", [str(served.test.calls)])

    served.server.before_reply = say
    for how in ("nothing", "outcome"):
        serial = await served.send(ROOT, TEST, "Fail", "s", how)
        assert (await served.peer.read()).member == "Happened"
        assert (await served.peer.read()).reply_serial == serial


async def test_finishing_answers_what_has_come(served: Served) -> None:
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    served.test.gates["a"] = asyncio.Event()
    serial = await served.send(ROOT, TEST, "Caller", "s", "a")
    await log.until_length(1)
    finishing = asyncio.create_task(served.server.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    served.test.gates["a"].set()
    await finishing
    assert (await served.peer.read()).reply_serial == serial


async def test_an_end_before_a_call_has_begun_is_quiet() -> None:
    """A coroutine that was made and never run would warn, and warnings are errors here."""
    async with connected() as (connection, _peer):
        server = ObjectServer(connection, ROOT, MACHINE_ID)
        server.add(ROOT, Test("one"))
        before = asyncio.all_tasks()
        server.handle(Message(path=ROOT, interface=TEST, member="Nothing", serial=1))
        (task,) = asyncio.all_tasks() - before
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# -- errors of methods ---------------------------------------------------------


async def test_an_expected_failure_is_told_with_its_name_and_text(served: Served) -> None:
    for how, name, text in (
        ("outcome", "org.activation.Broker1.Error.StartLimitHit", "failed too often"),
        ("denied", FDO + "AccessDenied", ""),
    ):
        with pytest.raises(RemoteError) as caught:
            await served.call(ROOT, TEST, "Fail", "s", how)
        assert caught.value.name == name
        assert str(caught.value) == text


async def _faulty(served: Served, path: str, interface: str, member: str, *arguments: Any) -> None:
    """Call what has a fault: the caller hears little, the loop's handler all."""
    faults = Log()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )
    with pytest.raises(RemoteError) as caught:
        await served.call(path, interface, member, *arguments)
    assert caught.value.name == FDO + "Failed"
    assert str(caught.value) == f"{member} failed in the broker"
    await faults.until_length(1)
    assert len(faults) == 1
    assert not isinstance(faults[0], Outcome)
    assert faults[0].__traceback__ is not None
    # And life goes on.
    assert await served.call(ROOT, PEER, "Ping") == []


async def test_a_fault_is_told_without_traceback_and_reaches_the_loops_handler(
    served: Served,
) -> None:
    await _faulty(served, ROOT, TEST, "Fail", "s", "fault")


async def test_results_of_the_wrong_type_are_a_fault_and_not_a_silence(served: Served) -> None:
    await _faulty(served, ROOT, TEST, "Fail", "s", "body")


async def test_a_property_that_cannot_be_read_is_a_fault(served: Served) -> None:
    served.test.broken = True
    await _faulty(served, ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    await _faulty(served, ROOT, PROPERTIES, "GetAll", "s", "")


async def test_an_object_that_goes_while_its_call_waits_is_unknown(served: Served) -> None:
    """The call was read, its task has not begun, and a process ends: no fault of ours."""
    path = f"{ROOT}/way/one"
    for which, member, arguments in (
        (PROPERTIES, "Get", ["ss", TEST, "Name"]),
        (PROPERTIES, "GetAll", ["s", ""]),
        (INTROSPECTABLE, "Introspect", []),
    ):
        handle = served.server.handle

        def on_message(message: Message) -> None:
            handle(message)  # noqa: B023 - called within this round
            served.server.remove(path)

        served.connection.on_message = on_message
        with pytest.raises(RemoteError) as caught:
            await served.call(path, which, member, *arguments)
        assert caught.value.name == FDO + "UnknownObject"
        served.server.add(path, Test("one"))


# -- properties ----------------------------------------------------------------


async def test_properties_are_read_with_the_types_of_the_xml(served: Served) -> None:
    path = f"{ROOT}/way/one"
    name, count, extra = Variant("s", "one"), Variant("u", 0), Variant("as", ["Extra"])
    assert await served.call(path, PROPERTIES, "Get", "ss", TEST, "Count") == [count]
    assert await served.call(path, PROPERTIES, "Get", "ss", "", "Extra") == [extra]
    for asked, answer in (
        (TEST, {"Name": name, "Count": count}),
        (MORE, {"Extra": extra}),
        # "An empty string indicates that all properties of all interfaces …"
        ("", {"Name": name, "Count": count, "Extra": extra}),
        (PEER, {}),
        (INTROSPECTABLE, {}),
        (PROPERTIES, {}),
    ):
        assert await served.call(path, PROPERTIES, "GetAll", "s", asked) == [answer]
    assert await served.call(ROOT, PROPERTIES, "GetAll", "s", MANAGER) == [{}]


# -- the tree ------------------------------------------------------------------


def _interfaces(description: ET.Element) -> list[str]:
    return [each.attrib["name"] for each in description.iterfind("interface")]


def _children(description: ET.Element) -> list[str]:
    return sorted(each.attrib["name"] for each in description.iterfind("node"))


async def test_introspection_lists_interfaces_and_children(served: Served) -> None:
    for path, interfaces, children in (
        ("/", [PEER, INTROSPECTABLE], ["org"]),
        ("/org", [PEER, INTROSPECTABLE], ["example"]),
        (ROOT, [PEER, INTROSPECTABLE, PROPERTIES, MANAGER, TEST], ["way"]),
        (f"{ROOT}/way", [PEER, INTROSPECTABLE], ["one", "two"]),
        (f"{ROOT}/way/one", [PEER, INTROSPECTABLE, PROPERTIES, TEST, MORE], []),
        (f"{ROOT}/way/two", [PEER, INTROSPECTABLE, PROPERTIES, TEST], []),
    ):
        description = await served.introspect(path)
        assert _interfaces(description) == interfaces
        assert _children(description) == children


async def test_introspection_is_the_xml_with_annotations_and_names_of_arguments(
    served: Served,
) -> None:
    description = await served.introspect(ROOT)
    found = description.find(f"interface[@name='{TEST}']")
    original = ET.fromstring(TEST_XML).find("interface")
    assert found is not None
    assert original is not None
    found.tail = original.tail = None
    assert ET.canonicalize(ET.tostring(found)) == ET.canonicalize(ET.tostring(original))


async def test_the_tree_follows_objects_that_come_and_go(served: Served) -> None:
    server = served.server

    async def tree(path: str = "/") -> list[str]:
        found = [path]
        for child in _children(await served.introspect(path)):
            found += await tree(f"{path.rstrip('/')}/{child}")
        return found

    start = await tree()
    assert start == [
        "/", "/org", ROOT, f"{ROOT}/way", f"{ROOT}/way/one", f"{ROOT}/way/two",
    ]  # fmt: skip
    server.add(f"{ROOT}/way/one/below/deep", Test("deep"))
    server.add("/com", Test("com"))
    server.remove(f"{ROOT}/way/two")
    assert await tree() == [
        "/", "/com", "/org", ROOT, f"{ROOT}/way", f"{ROOT}/way/one",
        f"{ROOT}/way/one/below", f"{ROOT}/way/one/below/deep",
    ]  # fmt: skip
    # What was an object is only a way now.
    server.remove(f"{ROOT}/way/one")
    assert _interfaces(await served.introspect(f"{ROOT}/way/one")) == [PEER, INTROSPECTABLE]
    server.remove(f"{ROOT}/way/one/below/deep")
    server.remove("/com")
    assert await tree() == ["/", "/org", ROOT]
    server.remove(ROOT)
    assert await tree() == ["/"]
    for path in ("/org", "/com", f"{ROOT}/way/one/below"):
        with pytest.raises(RemoteError, match="no object"):
            await served.introspect(path)
    server.add(ROOT, Test("one"))
    assert await tree() == ["/", "/org", ROOT]


async def test_an_object_may_be_at_the_root_of_the_tree() -> None:
    async with connected() as (connection, peer):
        served = Served(connection, peer)
        served.server = ObjectServer(connection, "/", MACHINE_ID)
        connection.on_message = served.server.handle
        served.server.add("/", served.test)
        served.server.add("/one", Test("one"))
        description = await served.introspect("/")
        assert _children(description) == ["one"]
        assert _interfaces(description) == [PEER, INTROSPECTABLE, PROPERTIES, MANAGER, TEST]
        (managed,) = await served.call("/", MANAGER, "GetManagedObjects")
        assert list(managed) == ["/one"]
        served.server.remove("/one")
        served.server.remove("/")
        assert _interfaces(await served.introspect("/")) == [PEER, INTROSPECTABLE, MANAGER]


async def test_two_objects_cannot_be_at_one_path(served: Served) -> None:
    with pytest.raises(AssertionError, match=ROOT):
        served.server.add(ROOT, Test("another"))


# -- the object manager --------------------------------------------------------


async def test_all_objects_below_the_manager_are_listed_with_their_properties(
    served: Served,
) -> None:
    served.server.add("/org/examples", Test("beside"))
    one = {"Name": Variant("s", "one"), "Count": Variant("u", 0)}
    two = {"Name": Variant("s", "two"), "Count": Variant("u", 0)}
    assert await served.call(ROOT, MANAGER, "GetManagedObjects") == [
        {
            f"{ROOT}/way/one": {TEST: one, MORE: {"Extra": Variant("as", ["Extra"])}},
            f"{ROOT}/way/two": {TEST: two},
        }
    ]


async def test_objects_that_come_and_go_are_told_from_the_managers_path(served: Served) -> None:
    """dbus-next tells it from the object's, where nobody listens."""
    path = f"{ROOT}/way/one"
    served.server.emit_added(path)
    served.server.emit_removed(path, [TEST, MORE])
    added, removed = await served.peer.read(), await served.peer.read()
    properties = {"Name": Variant("s", "one"), "Count": Variant("u", 0)}
    for message, member, signature, body in (
        (
            added,
            "InterfacesAdded",
            "oa{sa{sv}}",
            [path, {TEST: properties, MORE: {"Extra": Variant("as", ["Extra"])}}],
        ),
        (removed, "InterfacesRemoved", "oas", [path, [TEST, MORE]]),
    ):
        assert (message.path, message.interface, message.member) == (ROOT, MANAGER, member)
        assert (message.signature, message.body) == (signature, body)


async def test_changes_of_properties_are_told_from_the_objects_path(served: Served) -> None:
    path = f"{ROOT}/way/two"
    served.server.emit_changed(path, Test.spec, {"Count": 7}, ["Name"])
    served.server.emit(path, Test.spec, "Happened", ["it"])
    changed, happened = await served.peer.read(), await served.peer.read()
    assert (changed.path, changed.interface, changed.member) == (
        path,
        PROPERTIES,
        "PropertiesChanged",
    )
    assert changed.body == [TEST, {"Count": Variant("u", 7)}, ["Name"]]
    assert (happened.path, happened.interface, happened.member) == (path, TEST, "Happened")
    assert (happened.signature, happened.body) == ("s", ["it"])


async def test_one_interface_may_be_on_several_paths(served: Served) -> None:
    """dbus-next then signals from one of them only."""
    both = [f"{ROOT}/a", f"{ROOT}/b"]
    for path in both:
        served.server.add(path, served.test)
    for path in both:
        served.server.emit_changed(path, Test.spec, {"Count": 1}, [])
        assert (await served.peer.read()).path == path
        assert await served.call(path, TEST, "Caller", "s", "") == [":1.7"]


@pytest.mark.parametrize("name", ["Typo", ""])
async def test_what_the_xml_does_not_list_cannot_be_told(served: Served, name: str) -> None:
    """dbus-next ignores unknown names silently."""
    with pytest.raises(KeyError):
        served.server.emit_changed(ROOT, Test.spec, {name: 1}, [])
    with pytest.raises(KeyError):
        served.server.emit(ROOT, Test.spec, name, [])


# -- real clients --------------------------------------------------------------


class Service:
    """The same objects on a bus, and the programs that talk to them."""

    def __init__(self, where: str, connection: Connection) -> None:
        self.where = where
        self.name = connection.unique_name
        self.server = ObjectServer(connection, ROOT, MACHINE_ID)
        self.test = Test("one")
        self.server.add(ROOT, self.test)
        self.server.add(f"{ROOT}/way/one", Test("one"), More())
        connection.on_message = self.server.handle

    async def run(self, *command: str) -> tuple[int, str, str]:
        """Status, output and complaints of a program."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        async with asyncio.timeout(PATIENCE):
            out, complaints = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), complaints.decode()

    async def busctl(self, verb: str, *arguments: str) -> tuple[int, str, str]:
        """Of systemd."""
        return await self.run(
            "busctl", f"--address={self.where}", "--no-pager", verb, self.name, *arguments
        )

    async def gdbus(self, verb: str, path: str, *arguments: str) -> tuple[int, str, str]:
        """Of GLib."""
        return await self.run(
            "gdbus", verb, "--address", self.where, "--dest", self.name,
            "--object-path", path, *arguments,
        )  # fmt: skip

    async def dbus_send(self, path: str, member: str, *arguments: str) -> tuple[int, str, str]:
        """Of the reference implementation."""
        return await self.run(
            "dbus-send", f"--bus={self.where}", f"--dest={self.name}", "--print-reply",
            path, member, *arguments,
        )  # fmt: skip


@pytest_asyncio.fixture
async def service(bus: str) -> AsyncIterator[Service]:
    connection = await Connection.to_bus(address.connect(bus))
    yield Service(bus, connection)
    connection.close()
    await connection.wait_closed()


async def test_busctl_understands_all_of_it(service: Service) -> None:
    path = f"{ROOT}/way/one"
    status, out, _ = await service.busctl("tree", "--list")
    assert (status, out.split()) == (0, ["/", "/org", ROOT, f"{ROOT}/way", path])
    status, out, _ = await service.busctl("introspect", path)
    assert status == 0
    rows = {tuple(line.split()) for line in out.splitlines()}
    # Name, type, signature, result or value, flags.
    assert (".Echo", "method", "us", "(us)", "-") in rows
    assert (".Name", "property", "s", '"one"', "const") in rows
    assert (".Count", "property", "u", "0", "emits-change") in rows
    assert (".Extra", "property", "as", "1", '"Extra"', "emits-change") in rows
    assert (".Happened", "signal", "s", "-", "-") in rows
    status, out, _ = await service.busctl("call", path, TEST, "Echo", "us", "7", "a b")
    assert (status, out) == (0, '(us) 7 "a b"\n')
    status, out, _ = await service.busctl("get-property", path, TEST, "Name")
    assert (status, out) == (0, 's "one"\n')
    status, _, complaint = await service.busctl("set-property", path, TEST, "Name", "s", "x")
    assert status != 0
    assert "Name cannot be set" in complaint
    status, _, complaint = await service.busctl("call", path, TEST, "Echo", "u", "7")
    assert status != 0
    assert "Echo takes arguments of type (us), not (u)" in complaint


async def test_gdbus_understands_all_of_it(service: Service) -> None:
    path = f"{ROOT}/way/one"
    status, out, _ = await service.gdbus("introspect", path, "--xml")
    assert status == 0
    assert _interfaces(ET.fromstring(out)) == [PEER, INTROSPECTABLE, PROPERTIES, TEST, MORE]
    status, out, _ = await service.gdbus("introspect", ROOT, "--recurse")
    assert status == 0
    assert "Echo(in  u number," in out
    assert "readonly u Count = 0;" in out
    status, out, _ = await service.gdbus("call", path, "--method", f"{TEST}.Echo", "7", "ä")
    assert (status, out) == (0, "((uint32 7, 'ä'),)\n")
    status, out, _ = await service.gdbus("call", ROOT, "--method", f"{MANAGER}.GetManagedObjects")
    assert status == 0
    assert f"objectpath '{path}'" in out
    status, _, complaint = await service.gdbus("call", "/no", "--method", f"{TEST}.Nothing")
    assert status != 0
    assert FDO + "UnknownObject" in complaint


async def test_dbus_send_understands_all_of_it(service: Service) -> None:
    status, out, _ = await service.dbus_send(ROOT, f"{TEST}.Echo", "uint32:7", "string:ä")
    assert status == 0
    assert 'struct {\n      uint32 7\n      string "ä"' in out
    status, out, _ = await service.dbus_send(ROOT, f"{PROPERTIES}.GetAll", "string:")
    assert status == 0
    assert 'string "Count"' in out
    status, out, _ = await service.dbus_send("/no", f"{PEER}.Ping")
    assert status == 0
    for member, arguments, error in (
        (f"{TEST}.No", (), "UnknownMethod"),
        ("org.example.No.No", (), "UnknownInterface"),
        (f"{PROPERTIES}.Get", (f"string:{TEST}", "string:No"), "UnknownProperty"),
        (f"{TEST}.Fail", ("string:denied",), "AccessDenied"),
    ):
        status, _, complaint = await service.dbus_send(ROOT, member, *arguments)
        assert status != 0
        assert complaint.startswith(f"Error {FDO}{error}")


async def test_a_bus_tells_who_calls(service: Service, bus: str) -> None:
    client = await Connection.to_bus(address.connect(bus))
    answer = await client.call(service.name, ROOT, TEST, "Caller", "s", [""])
    assert answer == [client.unique_name]
    client.close()
    await client.wait_closed()
