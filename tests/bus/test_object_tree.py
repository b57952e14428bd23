"""The objects and their properties, also as the clients that people use see them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio

from broker.bus import address
from broker.bus.codec import Variant
from broker.bus.connection import Connection
from broker.bus.objects import ObjectServer
from broker.errors import FDO, RemoteError
from tests.bus.peer import PATIENCE, connected
from tests.bus.serving import (
    INTROSPECTABLE,
    MACHINE_ID,
    MANAGER,
    MORE,
    PEER,
    PROPERTIES,
    ROOT,
    TEST,
    TEST_XML,
    More,
    Served,
    Test,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("specs")]


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
        served.server = ObjectServer("/", MACHINE_ID)
        served.server.serve(connection)
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
    """dbus-next signals from the object's path, which no client watches."""
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
        self.server = ObjectServer(ROOT, MACHINE_ID)
        self.server.serve(connection)
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
