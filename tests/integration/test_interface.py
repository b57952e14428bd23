"""The D-Bus interface as real clients see it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from broker.api import paths
from broker.bus.codec import Message
from broker.bus.interface import EMITS, InterfaceSpec
from broker.errors import DBusError, RemoteError
from tests.aio_client import ROOT, Client, Signal
from tests.integration.buses import open_fifo
from tests.integration.mirror import SPECS, Mirror, objects_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"
OWN = "org.activation.Broker1"
FDO = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"
READINGS = 30


async def objects_of(bus: Bus) -> dict[str, dict[str, dict[str, Any]]]:
    """GetManagedObjects, unpacked."""
    return objects_in(await bus.client.snapshot())


def described(xml: str, spec: InterfaceSpec) -> tuple[Any, Any, Any]:
    """What introspection says of one interface: methods, properties, signals."""
    element: ET.Element
    (element,) = [each for each in ET.fromstring(xml) if each.get("name") == spec.name]

    def arguments(each: ET.Element, direction: str, default: str) -> str:
        return "".join(
            arg.attrib["type"]
            for arg in each.findall("arg")
            if arg.get("direction", default) == direction
        )

    methods = {
        each.attrib["name"]: (arguments(each, "in", "in"), arguments(each, "out", "in"))
        for each in element.iter("method")
    }
    properties = {}
    for each in element.iter("property"):
        (emits,) = (note for note in each if note.attrib["name"] == EMITS)
        properties[each.attrib["name"]] = (each.attrib["type"], emits.attrib["value"])
    signals = {
        each.attrib["name"]: arguments(each, "out", "out") for each in element.iter("signal")
    }
    return methods, properties, signals


async def introspect(bus: Bus, path: str) -> str:
    (xml,) = await bus.client.bus.call(
        OWN, path, "org.freedesktop.DBus.Introspectable", "Introspect"
    )
    return str(xml)


async def test_what_is_exported_is_what_the_xml_says(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        objects = await objects_of(bus)
        objects[ROOT] = {paths.MANAGER.name: {}}
        for path, interfaces in objects.items():
            for name in interfaces:
                spec = SPECS[name]
                methods, properties, signals = described(await introspect(bus, path), spec)
                assert methods == {k: (v.arguments, v.results) for k, v in spec.methods.items()}
                assert properties == {k: (v.signature, v.emits) for k, v in spec.properties.items()}
                assert signals == spec.signals
                (all_values,) = await bus.client.bus.call(
                    OWN, path, "org.freedesktop.DBus.Properties", "GetAll", "s", [name]
                )
                assert {k: v.signature for k, v in all_values.items()} == {
                    k: v.signature for k, v in spec.properties.items()
                }


async def test_the_contract_is_in_the_xml() -> None:
    """Names and signatures that clients rely on; more may be added, nothing dropped."""
    assert {k: (v.arguments, v.results) for k, v in paths.MANAGER.methods.items()}.items() >= {
        "StartService": ("s", "o"),
        "StopService": ("s", ""),
        "KillService": ("ssi", ""),
        "ResetFailed": ("s", ""),
        "GetService": ("s", "o"),
        "GetServiceByPID": ("u", "o"),
        "GetProcess": ("u", "o"),
        "ListServices": ("", "a(sosu)"),
        "GetLog": ("stu", "a(tttuss)t"),
        "Reload": ("", ""),
        "SetEnvironment": ("as", ""),
        "UnsetEnvironment": ("as", ""),
        "Exit": ("", ""),
    }.items()
    assert (
        paths.MANAGER.signals.items()
        >= {
            "ProcessStarted": "osuus",
            "ProcessExited": "osuiia{sv}",
            "ActivationFailed": "sssa{sv}",
            "LogAppended": "st",
        }.items()
    )
    contract = {
        "Manager": "Version s const Engine s const BusAddress s const Subreaper b const "
        "ServiceDirectories as invalidates Environment as invalidates NServices u true "
        "NProcesses u true NReaped t false NSignalsDropped t true NFaults t true "
        "ActivationTimeoutUSec t const StopTimeoutUSec t const StartLimitIntervalUSec t const "
        "StartLimitBurst u const",
        "Service": "Name s const DescriptorPath s const User s const ExecStart as const "
        "ActiveState s true SubState s true Result s true Owner s true MainPID u true "
        "OwnerPID u true OwnerCommand as false Shadowed as const "
        "PIDs au false ExecMainPID u true ExecMainCode i true ExecMainStatus i true "
        "ExecMainStartTimestamp t true ExecMainStartTimestampMonotonic t true "
        "ExecMainExitTimestamp t true ExecMainExitTimestampMonotonic t true "
        "StateChangeTimestamp t true StateChangeTimestampMonotonic t true InvocationID ay true "
        "NActivations u true NFailures u true ActivationUSec t true CPUUsageNSec t false "
        "Activations a(uutttttttts) false "
        "MemoryPeak t false",
        "Process": "PID u const PPID u const ServiceName s const Origin s const "
        "Attribution s const Activation t const Service o const State s true Command as false "
        "StartTimestamp t const StartTimestampMonotonic t const ExitTimestamp t true "
        "ExitTimestampMonotonic t true ExitCode i true ExitStatus i true UserUSec t true "
        "SystemUSec t true MaxRSSBytes t true",
    }
    for interface, text in contract.items():
        spec = SPECS[f"{OWN}.{interface}"]
        words = iter(text.split())
        wanted = {
            name: (signature, emits)
            for name, signature, emits in zip(words, words, words, strict=True)
        }
        found = {k: (v.signature, v.emits) for k, v in spec.properties.items()}
        assert found.items() >= wanted.items()
    service = paths.SERVICE.methods
    assert {k: v.arguments for k, v in service.items()} == {
        "Start": "",
        "Stop": "",
        "Kill": "si",
        "ResetFailed": "",
    }


async def test_managed_objects_agree_with_get(place: Place) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    place.add(f"{NAME}.Idle")
    async with place.serve() as bus:
        await bus.echo(NAME)
        objects = await objects_of(bus)
        assert len(objects) > 4
        for path, interfaces in objects.items():
            for interface, values in interfaces.items():
                for name, value in values.items():
                    if name not in ("CPUUsageNSec", "MemoryPeak"):  # grow by themselves
                        assert await bus.client.get(path, interface, name) == value


async def test_every_change_is_announced(place: Place) -> None:
    """A client that listens knows as much as one that asks, after all that can happen."""
    names = [f"{NAME}{number}" for number in range(4)]
    place.add(names[0], f"{place.service} -d -l {names[0]}")
    place.add(names[1], f"{place.service} -x 3 {names[1]}")
    place.add(names[2])
    place.add(names[3], "/nonexistent")
    async with place.serve() as bus, await Client.connect(bus.address) as other:
        mirror = Mirror()
        mirror.objects = await objects_of(bus)
        (manager,) = await bus.client.bus.call(
            OWN, ROOT, "org.freedesktop.DBus.Properties", "GetAll", "s", [paths.MANAGER.name]
        )
        mirror.objects[ROOT] = {paths.MANAGER.name: {k: v.value for k, v in manager.items()}}
        await other.subscribe(mirror.on_signal)
        for number in range(9):
            for name in names:
                with contextlib.suppress(RemoteError):
                    await bus.call(name, "Exit", "i", number)
        await bus.client.call("ResetFailed", "s", "")
        await bus.echo(names[0])
        await bus.client.call("StopService", "s", names[0])
        await bus.client.call("ResetFailed", "s", "")
        await bus.echo(names[2])
        place.add(names[3], "/bin/true")
        (place.services / f"{names[1]}.service").unlink()
        place.add(f"{NAME}9")
        await bus.client.call("Reload")
        await bus.client.call("SetEnvironment", "as", ["A=b"])
        # Signals come in order: when this answer is here, all before it are.
        await other.call("ListServices")
        truth = await objects_of(bus)
        assert mirror.stale == {"Environment"}
        assert mirror.differences(truth) == []
        counts = mirror.objects[ROOT][paths.MANAGER.name]
        for name in ("NServices", "NProcesses"):
            assert await bus.client.get(ROOT, paths.MANAGER.name, name) == counts[name]


async def test_real_clients_see_the_annotations(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        path = await bus.path_of(NAME)
        tree = place.user.run(["busctl", f"--address={bus.address}", "tree", OWN])
        assert path in tree.stdout
        busctl = place.user.run(["busctl", f"--address={bus.address}", "introspect", OWN, path])
        lines = {line.split()[0]: line for line in busctl.stdout.splitlines()}
        assert lines[".ActiveState"].endswith("emits-change")
        assert lines[".Name"].endswith("const")
        assert lines[".PIDs"].endswith("-")
        gdbus = place.user.run(
            [
                "gdbus",
                "introspect",
                f"--address={bus.address}",
                f"--dest={OWN}",
                f"--object-path={path}",
            ]
        )
        assert 'EmitsChangedSignal("invalidates")' not in gdbus.stdout
        assert '@org.freedesktop.DBus.Property.EmitsChangedSignal("const")' in gdbus.stdout
        assert "readonly s ActiveState = 'inactive'" in gdbus.stdout
        send = place.user.run(
            [
                "dbus-send",
                f"--bus={bus.address}",
                "--print-reply=literal",
                f"--dest={OWN}",
                ROOT,
                "org.freedesktop.DBus.Properties.Get",
                f"string:{OWN}.Manager",
                "string:Engine",
            ]
        )
        assert send.stdout.split()[1] == place.engine


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "arguments", "error"),
    [
        (ROOT, f"{OWN}.Manager", "GetService", "s", ["no.such.Name"], "ServiceUnknown"),
        (ROOT, f"{OWN}.Manager", "StartService", "s", [""], "ServiceUnknown"),
        (ROOT, f"{OWN}.Manager", "StartService", "u", [1], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "KillService", "ssi", [NAME, "half", 15], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "KillService", "ssi", [NAME, "all", 65], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "KillService", "ssi", [NAME, "all", -1], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "SetEnvironment", "as", [["A"]], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "SetEnvironment", "as", [["=b"]], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "SetEnvironment", "as", [["A\n=b"]], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "UnsetEnvironment", "as", [["A=b"]], "InvalidArgs"),
        (ROOT, f"{OWN}.Manager", "NoSuchMethod", "", [], "UnknownMethod"),
        (ROOT, f"{OWN}.Nothing", "Ping", "", [], "UnknownInterface"),
        ("/nowhere", f"{OWN}.Manager", "Reload", "", [], "UnknownObject"),
    ],
)
async def test_bad_calls_get_standard_errors(
    place: Place,
    path: str,
    interface: str,
    member: str,
    signature: str,
    arguments: list[Any],
    error: str,
) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.client.bus.call(OWN, path, interface, member, signature, arguments)
        assert caught.value.name == FDO + error
        assert "Traceback" not in str(caught.value)


async def test_own_errors(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        calls: list[tuple[str, str, list[Any], str]] = [
            ("GetProcess", "u", [2**32 - 1], "NoSuchProcess"),
            ("GetProcess", "u", [1], "NoSuchProcess"),
            ("GetServiceByPID", "u", [bus.pid], "NoSuchProcess"),
            ("KillService", "ssi", [NAME, "main", 15], "NotRunning"),
            ("KillService", "ssi", [NAME, "all", 15], "NotRunning"),
        ]
        for member, signature, arguments, error in calls:
            with pytest.raises(RemoteError) as caught:
                await bus.client.call(member, signature, *arguments)
            assert caught.value.name == f"{OWN}.Error.{error}"
        await bus.client.call("StopService", "s", NAME)  # is stopped: that was wanted


async def test_kill_start_and_stop_on_the_object(place: Place) -> None:
    place.add(NAME, f"{place.service} -l {NAME}")
    async with place.serve() as bus:
        path = await bus.path_of(NAME)

        async def call(member: str, signature: str = "", *arguments: Any) -> None:
            await bus.client.bus.call(
                OWN, path, paths.SERVICE.name, member, signature, list(arguments)
            )

        await call("Start")
        assert await bus.get(NAME, "SubState") == "running"
        pids = await bus.get(NAME, "PIDs")
        await call("Kill", "si", "main", 9)
        await bus.state(NAME, "lingering")
        left = await bus.get(NAME, "PIDs")
        assert len(left) == len(pids) - 1
        await call("Kill", "si", "all", 9)
        assert await bus.state(NAME, "failed") == "failed"
        assert await bus.get(NAME, "Result") == "signal"
        await call("ResetFailed")
        assert await bus.get(NAME, "SubState", "Result") == ("dead", "success")
        await call("Start")
        await asyncio.gather(call("Stop"), call("Stop"))
        assert await bus.get(NAME, "SubState", "Result", "PIDs") == ("dead", "success", [])


async def test_what_is_announced_is_how_it_is_then(place: Place) -> None:
    """A new service whose name is owned already is seen once as it is, and not changed to it."""
    async with place.serve() as bus, await Client.connect(bus.address) as other:
        await bus.client.bus.call_bus("RequestName", "su", [NAME, 0])
        mirror = Mirror()
        mirror.objects = await objects_of(bus)
        contradictions = []

        def on_signal(signal: Signal) -> None:
            try:
                mirror.on_signal(signal)
            except AssertionError as e:
                contradictions.append(e)

        mirror.objects[ROOT] = {paths.MANAGER.name: {"NServices": 0, "NProcesses": 0}}
        await other.subscribe(on_signal)
        place.add(NAME)
        await bus.client.call("Reload")
        await bus.state(NAME, "external")
        await other.call("ListServices")
        assert contradictions == []
        assert mirror.differences(await objects_of(bus)) == []


async def test_a_descriptor_that_is_gone_before_it_was_announced(place: Place) -> None:
    """What nobody was told of is not announced; ReloadConfig's answer does not wait for that."""
    place.add(NAME)
    async with place.serve() as bus:
        for number in range(20):
            name = f"{NAME}.Brief{number}"
            place.add(name)
            await bus.client.bus.call_bus("ReloadConfig")
            (place.services / f"{name}.service").unlink()
            await bus.client.bus.call_bus("ReloadConfig")
        await bus.client.call("Reload")
        assert await bus.client.get(ROOT, paths.MANAGER.name, "NServices") == 1


async def test_nothing_is_kept_of_a_service_that_has_gone(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        await bus.client.call("StopService", "s", NAME)
        await bus.echo(NAME)
        (place.services / f"{NAME}.service").unlink()
        await bus.client.call("Reload")
        # It still runs, so it is still there, with its past.
        assert len((await bus.client.snapshot()).services) == 1
        await bus.client.call("StopService", "s", NAME)
        snapshot = await bus.client.snapshot()
        assert snapshot.services == {}
        assert {each["ServiceName"] for each in snapshot.processes.values()} == {""}
        place.add(NAME)
        await bus.client.call("Reload")
        assert await bus.get(NAME, "MemoryPeak", "CPUUsageNSec") == (0, 0)


async def call_after_reload(
    bus: Bus, path: str, member: str, signature: str, arguments: list[Any]
) -> Message | DBusError:
    """The answer to a call of a service's method that comes right behind a reload."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[Message | DBusError]] = []
    with bus.client.bus.corked():
        for message in (
            Message(OWN, ROOT, paths.MANAGER.name, "Reload"),
            Message(OWN, path, paths.SERVICE.name, member, signature=signature, body=arguments),
        ):
            answers.append(loop.create_future())
            bus.client.bus.request(message, answers[-1].set_result)
    return (await asyncio.gather(*answers))[-1]


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_an_object_whose_descriptor_has_just_gone_is_no_ghost(place: Place) -> None:
    """Its call is read before the reload is done, and carried out behind it."""
    async with place.serve() as bus:
        for member, signature, arguments in (
            ("Stop", "", []),
            ("Kill", "si", ["all", 9]),
            ("ResetFailed", "", []),
            ("Start", "", []),
        ):
            place.add(NAME)
            # A change: the broker knows who calls from here on, and asks nothing in between.
            await bus.client.call("Reload")
            path = await bus.path_of(NAME)
            (place.services / f"{NAME}.service").unlink()
            refused = await call_after_reload(bus, path, member, signature, arguments)
            assert isinstance(refused, RemoteError)
            assert refused.name == f"{FDO}ServiceUnknown"
        assert await bus.client.call("ListServices") == [[]]
        snapshot = await bus.client.snapshot()
        assert {each["ServiceName"] for each in snapshot.processes.values()} == {""}
        assert await bus.client.bus.call_bus("NameHasOwner", "s", [NAME]) == [False]


@asynccontextmanager
async def unseen_orphan(place: Place) -> AsyncIterator[tuple[Bus, Callable[[], Awaitable[None]]]]:
    """A service, and what has it leave an orphan of which nothing tells the broker."""
    gate, done = place.fifo("gate"), place.fifo("done")
    # The orphan's parent is not ours, so no SIGCHLD comes when it ends.
    late = "(read _ <gate; (sleep 1000 & ); echo >done; exec sleep 1000) &"
    script = place.write("late", f'#!/bin/sh\n{late}\nexec {place.service} "$@"\n')
    place.add(NAME, f"{script} {NAME}")

    async def leave() -> None:
        for fifo, mode in ((gate, "wb"), (done, "rb")):
            (await open_fifo(fifo, mode)).close()

    async with place.serve() as bus:
        await bus.echo(NAME)
        yield bus, leave


async def test_an_answer_is_not_older_than_what_was_announced_before_it(place: Place) -> None:
    """To announce a new service, its PIDs are read, and an orphan is found: after the reading."""
    async with unseen_orphan(place) as (bus, leave), await Client.connect(bus.address) as other:
        before = await other.get(ROOT, paths.MANAGER.name, "NProcesses")
        told = [before]
        answers: list[tuple[int, int]] = []
        done = asyncio.Event()

        def on_signal(signal: Signal) -> None:
            if signal.member == "PropertiesChanged" and "NProcesses" in signal.body[1]:
                told.append(signal.body[1]["NProcesses"])
                look()

        def on_reply(reply: Message | DBusError) -> None:
            assert isinstance(reply, Message)
            answers.append((reply.body[0].value, told[-1]))
            look()

        def look() -> None:
            if len(answers) == READINGS and told[-1] > before:
                done.set()

        await other.subscribe(on_signal)
        await leave()
        place.add(f"{NAME}.New")
        # All at once: some are answered before the new name is announced, some after it.
        get = Message(OWN, ROOT, PROPERTIES, "Get", signature="ss")
        get.body = [paths.MANAGER.name, "NProcesses"]
        with other.bus.corked():
            other.bus.send(Message(OWN, ROOT, paths.MANAGER.name, "Reload"))
            for _ in range(READINGS):
                other.bus.request(copy.copy(get), on_reply)
        async with asyncio.timeout(20):
            await done.wait()
        assert [each for each in answers if each[0] != each[1]] == []


async def test_everything_at_once_has_the_orphan_that_was_found_for_it(place: Place) -> None:
    """Reading PIDs finds orphans that nobody has told of; they are announced, and in the answer."""
    async with unseen_orphan(place) as (bus, leave):
        before = len(await objects_of(bus))
        await leave()
        objects = await objects_of(bus)
        assert len(objects) == before + 1
        assert (await objects_of(bus)).keys() == objects.keys()
