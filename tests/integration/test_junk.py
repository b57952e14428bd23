"""Calls made of the interface's own XML, and frames made of noise: a standard error each."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.api import paths
from broker.bus import address
from broker.bus.codec import Message, MessageFlag, Variant
from broker.bus.connection import Connection
from broker.bus.objects import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES
from broker.errors import FDO, OWN, RemoteError
from tests.aio_client import BUS_NAME, MANAGER, ROOT
from tests.bus import generated, wire
from tests.integration import buses
from tests.integration.buses import Place
from tests.integration.pairs import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.buses import Bus, Installation

NAME: Final = "org.activation.Test.One"
# The contract's list.
STANDARD: Final = {
    "ServiceUnknown", "Spawn.ExecFailed", "Spawn.ChildExited", "Spawn.ChildSignaled",
    "Spawn.Failed", "Spawn.FileInvalid", "TimedOut", "LimitsExceeded", "InvalidArgs",
    "AccessDenied", "UnknownObject", "UnknownInterface", "UnknownMethod", "UnknownProperty",
    "PropertyReadOnly",
}  # fmt: skip
OUR_OWN: Final = {"NoSuchProcess", "NotRunning", "StartLimitHit", "ShuttingDown"}
CONTRACT: Final = {FDO + each for each in STANDARD} | {OWN + each for each in OUR_OWN}
PATIENCE: Final = 30.0

relaxed = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Session:
    """A bus for all examples of a test, in a loop that outlives each of them."""

    def __init__(self, runner: asyncio.Runner, bus: Bus) -> None:
        self.runner = runner
        self.bus = bus
        self.paths = ["/", ROOT, f"{ROOT}/service", "/nowhere", paths.of_service(NAME)]
        snapshot = runner.run(bus.client.snapshot())
        self.paths += snapshot.processes

    def call(self, message: Message) -> list[Any] | RemoteError:
        """Send a call from a connection that has to survive it."""

        async def answer() -> list[Any] | RemoteError:
            try:
                return await self.bus.client.bus.call_message(message, timeout=PATIENCE)
            except RemoteError as e:
                return e

        return self.runner.run(answer())

    def check_alive(self) -> None:
        """Another client's reading of a property."""

        async def read() -> None:
            assert await self.bus.client.get(ROOT, MANAGER, "NServices") == 1

        self.runner.run(read())
        assert self.bus.status is None


@pytest.fixture(scope="module", params=["dbus-broker", "dbus-daemon"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=USERS)
def user(request: pytest.FixtureRequest) -> Installation:
    name = "ordinary" if request.param == "nobody" else "installation"
    found: Installation = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def session(engine: str, user: Installation, c_service: Path) -> Iterator[Session]:
    """A bus with one service, which runs and does what it is told."""
    path = buses.short_directory(user)
    place = Place(path, user, c_service, engine)
    place.add(NAME)
    bus = place.serve("--stop-timeout=0.2", "--output=null")
    with asyncio.Runner() as runner:
        runner.run(bus.__aenter__())
        try:
            runner.run(bus.echo(NAME))
            yield Session(runner, bus)
            said = runner.run(end(bus))
            assert "fault" not in said
            assert "Traceback" not in said
        finally:
            runner.run(bus.__aexit__(None, None, None))
    buses.remove(path)


async def end(bus: Bus) -> str:
    """With a signal, as everywhere; what was said on stderr."""
    bus.kill(signal.SIGTERM)
    return await bus.ended()


# -- what is sent --------------------------------------------------------------

SPECS: Final = (
    paths.MANAGER, paths.SERVICE, paths.PROCESS, PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER
)  # fmt: skip
METHODS: Final = [(spec.name, member) for spec in SPECS for member in spec.methods]
PROPERTY_NAMES: Final = [name for spec in SPECS for name in spec.properties]
SIGNATURES: Final = {
    (spec.name, member): method.arguments
    for spec in SPECS
    for member, method in spec.methods.items()
}
EDGES: Final[dict[str, list[Any]]] = {
    "i": [-(2**31), -1, 0, 1, 15, 32, 33, 64, 65, 2**31 - 1],
    "u": [0, 1, 2, 32768, 2**22, 2**31, 2**32 - 1],
    "s": [
        NAME, "", "main", "all", "half", BUS_NAME, "..", ":1.0", "a" * 256, "x" * 200_000,
        "two\nlines", "\x1b[31m", "ä€\U0001f600", "A=b", "=b", "A=b\nC=d", "%s%n", "../../etc",
        *(spec.name for spec in SPECS), *PROPERTY_NAMES,
    ],
}  # fmt: skip
DEEP: Final = Variant("v", Variant("v", Variant("av", [Variant("a{sv}", {"a": Variant("u", 1)})])))
# No NUL: an engine ends the connection of whoever sends one in a string.
TEXT: Final = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def arguments(kind: str) -> st.SearchStrategy[Any]:
    """Values of one type: those at the edges first."""
    if kind == "s":
        return st.sampled_from(EDGES["s"]) | TEXT
    if kind in EDGES:
        return st.sampled_from(EDGES[kind]) | generated.values(kind)
    if kind == "as":
        return st.lists(arguments("s"), max_size=20)
    if kind == "v":
        return st.just(DEEP) | st.builds(Variant, st.just("s"), TEXT)
    return generated.values(kind).filter(lambda each: kind == "ay" or not _has_nul(repr(each)))


def _has_nul(shown: str) -> bool:
    # dbus-next shows the text in a variant as it is.
    return "\\x00" in shown or "\0" in shown


def bodies(signature: str) -> st.SearchStrategy[tuple[str, list[Any]]]:
    """A signature with values of it."""
    kinds = wire.types(signature)
    return st.tuples(st.just(signature), st.tuples(*map(arguments, kinds)).map(list))


def own(method: tuple[str, str]) -> st.SearchStrategy[Any]:
    """A method with arguments of its own types."""
    return st.tuples(st.just(method), bodies(SIGNATURES[method]))


# Exit would be obeyed.
OWN_CALLS: Final = st.sampled_from([each for each in METHODS if each[1] != "Exit"]).flatmap(own)
# What dbus-next could not send as text is left out.
OTHER: Final = st.sampled_from(
    ["", "s", "ss", "as", "i", "u", "v", "ay", "ai", "a{sv}", "ssv", "ssi", "(s)", "aas", "g", "o"]
).flatmap(bodies)
OTHER_CALLS: Final = st.tuples(st.sampled_from(METHODS), OTHER).filter(
    lambda call: call[0][1] != "Exit" or call[1][0] != ""
)


def check(answer: list[Any] | RemoteError) -> None:
    """An error is one of the contract's, in words that are for the caller."""
    if isinstance(answer, RemoteError):
        assert answer.name in CONTRACT, (answer.name, str(answer)[:200])
        assert str(answer)
        for inside in ("Traceback", "site-packages", "/broker/", ".py", "dbus_next"):
            assert inside not in str(answer)


# -- the tests -----------------------------------------------------------------


@relaxed
@given(data=st.data(), call=OWN_CALLS, named=st.booleans())
def test_every_method_with_arguments_of_its_types(
    session: Session, data: st.DataObject, call: Any, named: bool
) -> None:
    (interface, member), (signature, body) = call
    path = data.draw(st.sampled_from(session.paths))
    message = Message(
        destination=BUS_NAME,
        path=path,
        interface=interface if named else None,
        member=member,
        signature=signature,
        body=body,
    )
    check(session.call(message))
    session.check_alive()


@relaxed
@given(data=st.data(), call=OTHER_CALLS)
def test_every_method_with_arguments_of_other_types(
    session: Session, data: st.DataObject, call: Any
) -> None:
    (interface, member), (signature, body) = call
    path = data.draw(st.sampled_from(session.paths))
    answer = session.call(
        Message(
            destination=BUS_NAME,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )
    )
    check(answer)
    if signature != SIGNATURES[interface, member]:
        assert isinstance(answer, RemoteError)
    session.check_alive()


def test_no_property_can_be_set(session: Session) -> None:
    for path, spec in ((ROOT, paths.MANAGER), (paths.of_service(NAME), paths.SERVICE)):
        for name in spec.properties:
            message = Message(
                destination=BUS_NAME,
                path=path,
                interface=PROPERTIES.name,
                member="Set",
                signature="ssv",
                body=[spec.name, name, DEEP],
            )
            answer = session.call(message)
            assert isinstance(answer, RemoteError)
            assert answer.name == FDO + "PropertyReadOnly"


def test_signals_that_do_not_exist_are_not_sent(session: Session) -> None:
    for member, arguments in (("ResetFailed", [""]), ("StartService", [NAME])):
        session.runner.run(session.bus.client.call(member, "s", *arguments))
    for number in (-(2**31), -1, 0, 65, 2**31 - 1):
        for whom in ("main", "all"):
            for path, spec, member, who in (
                (ROOT, paths.MANAGER, "KillService", [NAME]),
                (paths.of_service(NAME), paths.SERVICE, "Kill", []),
            ):
                message = Message(
                    destination=BUS_NAME,
                    path=path,
                    interface=spec.name,
                    member=member,
                    signature=spec.methods[member].arguments,
                    body=[*who, whom, number],
                )
                answer = session.call(message)
                assert isinstance(answer, RemoteError)
                assert (answer.name, str(answer)) == (
                    FDO + "InvalidArgs",
                    f"there is no signal {number}",
                )
    session.check_alive()


def test_calls_that_expect_no_answer_are_carried_out(session: Session) -> None:
    bodies_of: dict[str, list[Any]] = {"SetEnvironment": [["QUIET=1"]]}
    for interface, member in METHODS:
        body = bodies_of.get(member, [])
        if member != "Exit":
            session.bus.client.bus.send(
                Message(
                    destination=BUS_NAME,
                    path=ROOT,
                    interface=interface,
                    member=member,
                    signature="as" if body else "",
                    body=body,
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )
    session.check_alive()
    shown = session.runner.run(session.bus.client.get(ROOT, MANAGER, "Environment"))
    assert "QUIET=1" in shown


# -- frames --------------------------------------------------------------------

VALID: Final = [
    wire.call(ROOT, MANAGER, "GetService", "s", [NAME], serial=2, destination=BUS_NAME),
    wire.call(ROOT, MANAGER, "SetEnvironment", "as", [["A=b"]], serial=2, destination=BUS_NAME),
    wire.call(
        ROOT, PROPERTIES.name, "Set", "ssv", [MANAGER, "Engine", DEEP], serial=2,
        destination=BUS_NAME,
    ),
]  # fmt: skip


async def throw(bus: Bus, frames: bytes) -> None:
    """From a connection of their own, which the engine may end for them."""
    sock = address.connect(bus.address)
    connection = await Connection.to_bus(sock)
    with suppress(OSError):
        sock.send(frames)
    connection.close()
    await connection.wait_closed()


@relaxed
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=4),
    st.integers(5, 255),
)
def test_frames_with_noise(
    session: Session, frame: bytes, changes: list[tuple[int, int]], flags: int
) -> None:
    """The most part ends at the engine; what it lets through costs nothing here."""
    mutated = bytearray(frame)
    mutated[2] = flags
    for index, value in changes:
        mutated[index % len(mutated)] = value
    session.runner.run(throw(session.bus, bytes(mutated)))
    session.check_alive()


@relaxed
@given(st.integers(10, 255), st.sampled_from("<>"), generated.SIGNATURES.flatmap(bodies))
def test_header_fields_that_nobody_knows(
    session: Session, code: int, order: str, value: tuple[str, list[Any]]
) -> None:
    signature, (content,) = value
    fields: list[wire.Field] = [
        (wire.PATH, "o", ROOT),
        (wire.INTERFACE, "s", PEER.name),
        (wire.MEMBER, "s", "Ping"),
        (wire.DESTINATION, "s", BUS_NAME),
        (code, signature, content),
    ]
    frame = wire.frame(wire.CALL, fields, order=order, serial=2, flags=0xF8)
    session.runner.run(throw(session.bus, frame))
    session.check_alive()
