"""Clients that flood, do not read, forge and grab: they cost themselves, the bus goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.api.control import MAX_WAITING
from broker.bus import address
from broker.bus.codec import SMALL, Message, MessageFlag, MessageType
from broker.bus.connection import Connection
from broker.bus.driver import DRIVER
from broker.bus.objects import UNDER_WAY
from broker.errors import FDO, DBusError, LimitsExceeded, RemoteError
from tests.aio_client import BUS_NAME, MANAGER, ROOT, Client
from tests.bus import wire
from tests.integration.buses import flooding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

GOOD: Final = "org.activation.Test.Good"
NEVER: Final = "org.activation.Test.Never"
FAILS: Final = "org.activation.Test.Fails"
UNKNOWN: Final = "org.activation.Test.Unknown"
SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"
BUS_PATH: Final = "/org/freedesktop/DBus"
FLOOD: Final = 2000
PATIENCE: Final = 40.0
# What never comes is ended by the tests, not by the time.
PATIENT: Final = "--activation-timeout=300"
# What any of these floods may cost the broker, in kB of memory. One that is kept
# as it comes costs several times as much.
BOUND: Final = 16 << 10


@pytest.fixture
def place(place: Place) -> Place:
    """One service that works, one that never takes its name, one that fails at once."""
    place.add(GOOD)
    place.add(NEVER, "/bin/sleep 1000")
    place.add(FAILS, f"{place.service} -x 3 {FAILS}")
    return place


class Greedy:
    """A client that sends calls without waiting, and keeps what comes back."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answers: list[str] = []  # error names; empty for a success
        self._changed = asyncio.Event()

    def ask(self, destination: str, member: str, signature: str = "", *arguments: Any) -> None:
        """One more call, of the bus or of the broker."""
        of_bus = destination == DRIVER
        message = Message(
            destination=destination,
            path=BUS_PATH if of_bus else ROOT,
            interface=DRIVER if of_bus else MANAGER,
            member=member,
            signature=signature,
            body=list(arguments),
        )
        self.connection.request(message, self._on_reply)

    def _on_reply(self, reply: Message | DBusError) -> None:
        self.answers.append(reply.name if isinstance(reply, RemoteError) else "")
        self._changed.set()

    async def answered(self, count: int) -> None:
        """Return when this number of answers has come."""
        async with asyncio.timeout(PATIENCE):
            while len(self.answers) < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def greedy(bus: Bus) -> AsyncIterator[Greedy]:
    """Another connection."""
    connection = await Connection.to_bus(address.connect(bus.address))
    yield Greedy(connection)
    connection.close()
    await connection.wait_closed()


def peak(bus: Bus) -> int:
    """The most memory that the broker has ever had, in kB."""
    with open(f"/proc/{bus.pid}/status") as file:
        (line,) = [each for each in file if each.startswith("VmHWM:")]
    return int(line.split()[1])


def reads(bus: Bus) -> int:
    """How often the broker has called read() and its like."""
    with open(f"/proc/{bus.pid}/io") as file:
        (line,) = [each for each in file if each.startswith("syscr:")]
    return int(line.split()[1])


async def others_are_served(bus: Bus) -> None:
    """Another client's activation, and its read of a property."""
    async with await Client.connect(bus.address) as other:
        body = await other.bus.call(
            GOOD,
            "/org/activation/Test",
            "org.activation.Test",
            "Echo",
            "s",
            ["x"],
            timeout=PATIENCE,
        )
        assert body == ["x"]
        assert await other.get(ROOT, MANAGER, "NServices") == 3


# -- floods of activations -----------------------------------------------------


async def test_a_flood_for_a_name_that_never_comes(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        before = peak(bus)
        for _ in range(FLOOD):
            client.ask(DRIVER, "StartServiceByName", "su", NEVER, 0)
        await bus.state(NEVER, "start")
        await others_are_served(bus)
        assert client.answers == []
        assert await bus.get(NEVER, "NActivations") == 1
        assert len(await bus.get(NEVER, "PIDs")) == 1
        await bus.client.call("StopService", "s", NEVER)
        await client.answered(FLOOD)
        assert all(client.answers)
        await client.connection.sync()
        assert len(client.answers) == FLOOD
        assert await bus.get(NEVER, "NActivations") == 1
        assert peak(bus) < before + BOUND


async def test_a_flood_for_a_name_that_fails_at_once(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        before = peak(bus)
        for _ in range(FLOOD):
            client.ask(DRIVER, "StartServiceByName", "su", FAILS, 0)
        await others_are_served(bus)
        await client.answered(FLOOD)
        assert all(client.answers)
        assert await bus.get(FAILS, "NActivations") <= 5 * (1 + PATIENCE // 10)
        assert peak(bus) < before + BOUND


async def test_a_closed_gate_does_not_fill_the_log(place: Place) -> None:
    async with place.serve(PATIENT) as bus:
        for _ in range(300):
            with pytest.raises(RemoteError):
                await bus.client.bus.call_bus("StartServiceByName", "su", [FAILS, 0])
        failures = await bus.get(FAILS, "NFailures")
        bus.kill(signal.SIGTERM)
        said = (await bus.ended()).splitlines()
    refusals = [line for line in said if "is not started for a while" in line]
    assert 1 <= len(refusals) <= failures
    assert failures < 30


async def test_a_flood_for_names_that_do_not_exist(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        before = peak(bus)
        for number in range(FLOOD):
            client.ask(DRIVER, "StartServiceByName", "su", f"{UNKNOWN}{number}", 0)
            client.ask(BUS_NAME, "GetService", "s", f"{UNKNOWN}{number}")
        await others_are_served(bus)
        await client.answered(2 * FLOOD)
        assert set(client.answers) <= {FDO + "ServiceUnknown", FDO + "LimitsExceeded"}
        assert peak(bus) < before + BOUND


async def test_a_flood_of_our_own_start_service(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        before = peak(bus)
        for _ in range(FLOOD):
            client.ask(BUS_NAME, "StartService", "s", NEVER)
        # What is too much is refused at once, the rest waits.
        refused = FLOOD - UNDER_WAY // SMALL
        await client.answered(refused)
        await others_are_served(bus)
        assert client.answers == [LimitsExceeded.dbus_name] * refused
        assert await bus.get(NEVER, "NActivations") == 1
        async with asyncio.timeout(PATIENCE):
            while len(client.answers) < FLOOD:
                # Callers take turns: some of the flood may come after it, and start it anew.
                await bus.client.call("StopService", "s", NEVER)
        assert set(client.answers[refused:]) == {FDO + "Spawn.Failed"}
        await client.connection.sync()
        assert len(client.answers) == FLOOD
        assert peak(bus) < before + BOUND


async def test_callers_that_have_gone_wait_no_longer_than_the_activation(place: Place) -> None:
    """Nobody looks whether they are still there; what they can become is bounded."""
    each = UNDER_WAY // SMALL - 1
    async with place.serve(PATIENT) as bus:
        async with AsyncExitStack() as stack:
            for room in range(MAX_WAITING, 0, -each):
                client = await stack.enter_async_context(greedy(bus))
                for _ in range(each):
                    client.ask(BUS_NAME, "StartService", "s", NEVER)
                # Its turn comes when all those before it wait, or were refused.
                client.ask(BUS_NAME, "GetService", "s", NEVER)
                await client.answered(1 + max(0, each - room))
        await others_are_served(bus)
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NEVER)
        assert caught.value.name == LimitsExceeded.dbus_name
        assert "wait for" in str(caught.value)
        await bus.client.call("StopService", "s", NEVER)
        await bus.state(NEVER, "dead")
        # All of them have gone with it.
        start = asyncio.create_task(bus.client.call("StartService", "s", NEVER))
        await bus.state(NEVER, "start")
        await bus.client.call("StopService", "s", NEVER)
        with pytest.raises(RemoteError, match="was stopped"):
            await start


DESCRIPTORS: Final = 500


async def test_reloads_that_come_together_are_one(place: Place) -> None:
    # So many that a reading takes longer than the calls need to come.
    for number in range(DESCRIPTORS):
        place.add(f"{UNKNOWN}.S{number}")
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        before = reads(bus)
        # At once, however busy the machine is.
        with client.connection.corked():
            for _ in range(200):
                client.ask(BUS_NAME, "Reload")
        place.add(f"{UNKNOWN}.New")
        await client.answered(200)
        assert not any(client.answers)
        assert await bus.get(f"{UNKNOWN}.New", "NActivations") == 0
        # At its start it read them once.
        assert reads(bus) - before < 100 * before


# -- one that does not read ----------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "member"),
    [
        ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
        ("org.freedesktop.DBus.Introspectable", "Introspect"),
    ],
)
async def test_a_client_that_asks_and_does_not_read(
    place: Place, interface: str, member: str
) -> None:
    calls = b"".join(
        wire.call(ROOT, interface, member, serial=serial, destination=BUS_NAME)
        for serial in range(2, 10_002)
    )
    async with place.serve(PATIENT) as bus:
        before = peak(bus)
        with address.connect(bus.address) as deaf:
            await asyncio.to_thread(deaf.sendall, hello() + calls)
            await others_are_served(bus)
        await others_are_served(bus)
        assert peak(bus) < before + BOUND


def hello() -> bytes:
    """All that a client must say before its first message, which is number 2."""
    return b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + wire.call(
        BUS_PATH, DRIVER, "Hello", destination=DRIVER
    )


async def test_one_call_of_megabytes(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        for member in ("GetService", "UnsetEnvironment", "StopService"):
            client.ask(BUS_NAME, member, "s", "x" * 5_000_000)
        await others_are_served(bus)
        await client.answered(3)
        assert set(client.answers) == {FDO + "InvalidArgs", LimitsExceeded.dbus_name}


# -- forged messages -----------------------------------------------------------


async def test_answers_that_nobody_asked_for(place: Place) -> None:
    """Serials can be guessed; of the engines, dbus-daemon lets these through."""
    async with place.serve(PATIENT) as bus:
        (ours,) = await bus.client.bus.call_bus("GetNameOwner", "s", [BUS_NAME])
        async with greedy(bus) as client:
            # The first makes the broker ask who calls; its question has one of these serials.
            client.ask(BUS_NAME, "StartService", "s", GOOD)
            for serial in range(1, FLOOD):
                client.connection.send(
                    Message(
                        message_type=MessageType.METHOD_RETURN,
                        flags=MessageFlag.NO_REPLY_EXPECTED,
                        destination=ours,
                        reply_serial=serial,
                    )
                )
            await client.answered(1)
            assert client.answers[0] == ""
        await others_are_served(bus)
        assert bus.status is None


def forged_signals(ours: str, owner: str) -> list[Message]:
    """With the shape of what the bus and systemd say, but from a client."""
    gone = ("NameOwnerChanged", "sss", [GOOD, owner, ""])
    reset = ("ActivationFailure", "sss", [NEVER, FDO + "Failed", "forged"])
    shapes = [
        (ours, BUS_PATH, DRIVER, *gone),
        (ours, BUS_PATH, DRIVER, "NameOwnerChanged", "", []),
        (ours, BUS_PATH, DRIVER, "NameOwnerChanged", "u", [1]),
        (DRIVER, BUS_PATH, f"{SYSTEMD}.Activator", *reset),
        (DRIVER, SYSTEMD_PATH, f"{SYSTEMD}.Activator", *reset),
        (SYSTEMD, BUS_PATH, f"{SYSTEMD}.Activator", "ActivationRequest", "s", [FAILS]),
        (SYSTEMD, BUS_PATH, DRIVER, "ActivatableServicesChanged", "", []),
    ]
    return [
        Message(
            message_type=MessageType.SIGNAL,
            flags=MessageFlag.NO_AUTOSTART | MessageFlag.NO_REPLY_EXPECTED,
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )
        for destination, path, interface, member, signature, body in shapes
    ]


async def test_forged_signals_change_nothing(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client, greedy(bus) as victim:
        await bus.echo(GOOD)
        victim.ask(DRIVER, "StartServiceByName", "su", NEVER, 0)
        await bus.state(NEVER, "start")
        (ours,) = await client.connection.call_bus("GetNameOwner", "s", [BUS_NAME])
        (owner,) = await client.connection.call_bus("GetNameOwner", "s", [GOOD])
        for message in forged_signals(ours, owner):
            client.connection.send(message)
        # As a call, with systemd's own shape.
        with pytest.raises(RemoteError):
            await client.connection.call(
                SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "SetEnvironment",
                "as", [["FORGED=1"]],
            )  # fmt: skip
        # Behind all of them, on the same way.
        await client.connection.call(BUS_NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping")
        await bus.client.call("GetService", "s", GOOD)
        assert await bus.get(GOOD, "SubState", "Owner", "NActivations") == ("running", owner, 1)
        assert await bus.get(NEVER, "SubState") == "start"
        assert await bus.get(FAILS, "NActivations") == 0
        assert victim.answers == []
        shown = await bus.client.get(ROOT, MANAGER, "Environment")
        assert "FORGED=1" not in shown
        await bus.client.call("StopService", "s", NEVER)
        await victim.answered(1)


# -- names ---------------------------------------------------------------------

ALLOW_REPLACEMENT, REPLACE, DO_NOT_QUEUE = 1, 2, 4
OWNER, IN_QUEUE, EXISTS = 1, 2, 3


async def test_our_names_cannot_be_taken(place: Place) -> None:
    reserved = [BUS_NAME] + ([SYSTEMD] if place.engine == "dbus-daemon" else [])
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        for _ in range(FLOOD):
            client.ask(BUS_NAME, "StartService", "s", NEVER)
            client.ask(DRIVER, "RequestName", "su", BUS_NAME, ALLOW_REPLACEMENT | REPLACE)
        for name in reserved:
            before = await client.connection.call_bus("GetNameOwner", "s", [name])
            for flags, answer in (
                (REPLACE | DO_NOT_QUEUE, EXISTS),
                (DO_NOT_QUEUE, EXISTS),
                (REPLACE | ALLOW_REPLACEMENT, IN_QUEUE),
                (0, IN_QUEUE),
            ):
                found = await client.connection.call_bus("RequestName", "su", [name, flags])
                assert found == [answer]
            assert await client.connection.call_bus("GetNameOwner", "s", [name]) == before
        await others_are_served(bus)
        with pytest.raises(RemoteError):
            await client.connection.call_bus("RequestName", "su", [DRIVER, 0])


async def test_an_activatable_name_that_a_client_takes_is_external(place: Place) -> None:
    async with place.serve(PATIENT) as bus, greedy(bus) as client:
        # Also while it is being started: whoever has it ends the activation.
        start = asyncio.create_task(bus.client.call("StartService", "s", NEVER))
        await bus.state(NEVER, "start")
        for name in (GOOD, NEVER):
            found = await client.connection.call_bus("RequestName", "su", [name, 0])
            assert found == [OWNER]
            await bus.state(name, "external")
            assert await bus.get(name, "Owner") == client.connection.unique_name
        await start
        for member, arguments in (("StopService", [GOOD]), ("KillService", [GOOD, "all", 15])):
            with pytest.raises(RemoteError) as caught:
                await bus.client.call(member, "ssi"[: len(arguments)], *arguments)
            assert caught.value.name == f"{BUS_NAME}.Error.NotRunning"
        for name in (GOOD, NEVER):
            await client.connection.call_bus("ReleaseName", "s", [name])
        await bus.state(GOOD, "dead")
        await others_are_served(bus)


# -- floods of names, and of calls that want no answer -------------------------------

# Of 200 pairs or calls each: what two deaf clients leave with dbus-broker is less than half
# of what it keeps for a user, so that no innocent one is thrown off.
WRITES: Final = "150"


@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("name", [FAILS, UNKNOWN])
@pytest.mark.parametrize("hearing", ["", "deaf"])
async def test_a_name_that_is_flipped(place: Place, name: str, hearing: str) -> None:
    """By two clients, tens of thousands of times a second: nobody's start is late by it."""
    argv = ["flip", name, WRITES, *hearing.split()]
    async with place.serve("--activation-timeout=10") as bus:
        before = peak(bus)
        with flooding(bus, *argv), flooding(bus, *argv):
            for _ in range(20):
                assert await bus.call(GOOD, "Echo", "s", "x") == "x"
                await bus.state(GOOD, "running")
                await bus.client.call("StopService", "s", GOOD)
        assert await bus.echo(GOOD) == "hello"
        assert await bus.get(GOOD, "NActivations", "NFailures") == (21, 0)
        assert peak(bus) < before + 2 * BOUND


@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_calls_that_want_no_answer(place: Place) -> None:
    """Many more than are answered; what they cost is dropped."""
    async with place.serve() as bus:
        assert await bus.call(GOOD, "Echo", "s", "x") == "x"
        before = peak(bus)
        with flooding(bus, "ping", BUS_NAME, WRITES), flooding(bus, "ping", BUS_NAME, WRITES):
            for _ in range(5):
                with contextlib.suppress(DBusError):
                    await bus.client.call("GetService", "s", GOOD)
        async with await Client.connect(bus.address) as other:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        found = await other.get(ROOT, MANAGER, "NServices")
                    except DBusError:
                        continue  # our name is not ours again yet
                    break
        assert found == 3
        assert bus.status is None
        assert peak(bus) < before + 2 * BOUND
