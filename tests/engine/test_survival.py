"""Nothing that we say ends a real engine, and nothing that clients make it say ends us."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import select
import signal
from typing import TYPE_CHECKING, Any

import pytest

from broker.bus.codec import Message, MessageType
from broker.errors import DBusError, DescriptorError, Disconnected, NotReloaded, RemoteError
from tests.engine.running import record, running
from tests.engine.test_dbus_broker import outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from broker.bus.connection import Connection
    from broker.engine.base import Engine

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"
OTHER = "org.activation.Test.Other"
# What no text of ours has, and might.
TEXT = "several\nlines, Grüße, 100 % \udcff and a \0"

BROKER = {
    ("METHOD_CALL", "/org/bus1/DBus/Broker", "org.bus1.DBus.Broker", "AddListener", "ohv"),
    ("METHOD_CALL", "/org/bus1/DBus/Broker", "org.bus1.DBus.Broker", "AddName", "osu"),
    ("METHOD_CALL", "/org/bus1/DBus/Name/N", "org.bus1.DBus.Name", "Release", ""),
    ("METHOD_CALL", "/org/bus1/DBus/Name/N", "org.bus1.DBus.Name", "Reset", "ts"),
    ("METHOD_RETURN", "", "", "", ""),
    ("ERROR", "", "", "org.bus1.DBus.Controller.Error.InvalidConfig", "s"),
}
DRIVER = ("METHOD_CALL", "/org/freedesktop/DBus", "org.freedesktop.DBus")
DAEMON = {
    (*DRIVER, "Hello", ""),
    (*DRIVER, "AddMatch", "s"),
    (*DRIVER, "RequestName", "su"),
    (*DRIVER, "ReloadConfig", ""),
    (
        "SIGNAL",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Activator",
        "ActivationFailure",
        "sss",
    ),
    ("ERROR", "", "", "org.freedesktop.DBus.Error.UnknownMethod", "s"),
    ("ERROR", "", "", "org.freedesktop.DBus.Error.UnknownObject", "s"),
}
ALLOWED = {"dbus-broker": BROKER, "dbus-daemon": DAEMON}


def made(outcome: type[DBusError]) -> DBusError:
    """An outcome with the most hostile text."""
    if outcome is RemoteError:
        return RemoteError("no name at all", TEXT)
    if outcome is DescriptorError:
        return DescriptorError(TEXT, 1, TEXT)
    return outcome(TEXT)


def shape(message: Message) -> tuple[str, ...]:
    """What an engine judges a message by."""
    path = re.sub(r"^(/org/bus1/DBus/Name/)\d+$", r"\1N", message.path or "")
    member = message.member or message.error_name or ""
    return (message.message_type.name, path, message.interface or "", member, message.signature)


async def start(client: Connection, name: str) -> RemoteError:
    """The error that an activation ends with."""
    with pytest.raises(RemoteError) as caught:
        await client.call_bus("StartServiceByName", "su", [name, 0])
    return caught.value


async def test_it_survives_every_outcome(engine: str, place: Path) -> None:
    async with running(engine, place, [NAME]) as (_, events, client):
        for outcome in outcomes():
            events.error = made(outcome)
            error = await start(client, NAME)
            if engine == "dbus-daemon":
                assert error.name == outcome.dbus_name
                said = str(events.error).replace("\0", "\\0").replace("\udcff", "\\xff")
                assert str(error) == said
        await client.sync()
        assert len(events.requests) == len(outcomes())
        assert events.gone == []


async def everything(engine: Engine, client: Connection) -> None:
    """All that makes an engine's own code say something."""
    await start(client, NAME)
    await engine.set_names([OTHER])
    await start(client, OTHER)
    await engine.set_names([NAME, OTHER])
    await client.call_bus("UpdateActivationEnvironment", "a{ss}", [{"A": "b"}])
    await client.call_bus("ReloadConfig")
    for path in ("/", "/org/freedesktop/systemd1"):
        with pytest.raises(RemoteError):
            await client.call("org.freedesktop.systemd1", path, "org.x.Y", "Nonsense")


async def test_every_message_to_it_is_of_a_shape_that_it_takes(
    engine: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = record(monkeypatch)
    async with running(engine, place, [NAME]) as (running_engine, events, client):
        await everything(running_engine, client)
        events.reload_error = NotReloaded("not now")
        if engine == "dbus-broker":
            with pytest.raises(RemoteError, match="Config invalid"):
                await client.call_bus("ReloadConfig")
        else:  # it has no say in it
            await client.call_bus("ReloadConfig")
        await client.sync()
        assert events.gone == []
    ours = {shape(message) for link, message in sent if link is not client}
    # All of them and no others: the list is as long as what there is to say.
    assert ours == ALLOWED[engine]


async def test_an_engine_is_let_go_without_a_word(
    engine: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all without Listener.Release, which aborts dbus-broker while clients are there."""
    async with running(engine, place, [NAME]) as (running_engine, events, client):
        await client.sync()
        sent = record(monkeypatch)
        running_engine.stop()
        assert sent == []
        assert events.gone == []


async def test_clients_cannot_say_anything_through_it_that_ends_us(
    engine: str, place: Path
) -> None:
    nonsense: list[dict[str, str]] = [
        {},
        {"": ""},
        {"=": "="},
        {"A=B": "C"},
        {"LONG": "x" * 200_000},
        {f"N{i}": "" for i in range(5000)},
        {"A": "\n\x01\U0010ffff"},
    ]
    async with running(engine, place, [NAME]) as (_, events, client):
        for changes in nonsense:
            await client.call_bus("UpdateActivationEnvironment", "a{ss}", [changes])
        # Answered in the order in which they were asked, and the last is answered.
        await start(client, NAME)
        assert len(events.environment) == len(nonsense)
        assert events.environment[4:6] == nonsense[4:6]
        others: dict[str, list[Any]] = {"s": ["x"], "a{sv}": [{}], "as": [["A=B"]]}
        for signature, arguments in others.items():
            with pytest.raises(RemoteError):
                await client.call_bus("UpdateActivationEnvironment", signature, arguments)
        assert events.gone == []


async def test_a_wait_for_a_name_that_is_taken_back_has_an_end(engine: str, place: Path) -> None:
    async with running(engine, place, [NAME]) as (running_engine, _, client):
        call = asyncio.ensure_future(start(client, NAME))
        await asyncio.sleep(0)
        # The request has come, and we hear of it after we have said that there is no such name.
        link = running_engine._link  # type: ignore[attr-defined]  # noqa: SLF001 - not read
        link = getattr(link, "connection", link)._sock  # noqa: SLF001
        assert select.select([link], [], [], 20)[0]
        await running_engine.set_names([])
        assert (await call).name.startswith("org.freedesktop.DBus.Error.")


async def test_an_engine_that_ends_while_it_is_told_names_is_one_error(
    engine: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(engine, place, [NAME]) as (running_engine, events, _):
        os.kill(running_engine.pid, signal.SIGSTOP)
        telling = asyncio.ensure_future(
            running_engine.set_names([f"{NAME}.N{i}" for i in range(50)])
        )
        await asyncio.sleep(0)
        os.kill(running_engine.pid, signal.SIGKILL)
        if engine == "dbus-daemon":
            # It would be connected to anew: that it has ended, its process says.
            running_engine.stop()
        with pytest.raises(Disconnected):
            await telling
        assert len(events.gone) == (engine == "dbus-broker")
        assert caplog.records == []


async def test_a_flood_of_reloads_is_answered_to_the_last(engine: str, place: Path) -> None:
    async with running(engine, place, [NAME]) as (_, events, client):
        calls = [client.call_bus("ReloadConfig") for _ in range(500)]
        await asyncio.gather(*calls, start(client, NAME))
        assert events.reloads >= 1
        assert events.gone == []


async def test_nobody_but_the_engine_asks_for_activations(engine: str, place: Path) -> None:
    """A client that sends the engine's own messages to its controller is not taken for it."""
    async with running(engine, place, [NAME]) as (_, events, client):
        owner = {"dbus-broker": None, "dbus-daemon": "org.freedesktop.systemd1"}[engine]
        targets = [owner, *(f":1.{number}" for number in range(4))]
        signals: list[tuple[str, str, str, list[Any]]] = [
            ("org.freedesktop.systemd1.Activator", "ActivationRequest", "s", [NAME]),
            ("org.freedesktop.systemd1.Activator", "ActivationRequest", "", []),
            ("org.freedesktop.DBus", "ActivatableServicesChanged", "", []),
            ("org.bus1.DBus.Name", "Activate", "t", [1]),
            ("org.bus1.DBus.Broker", "SetActivationEnvironment", "a{ss}", [{"A": "b"}]),
        ]
        for target, (interface, member, signature, body) in itertools.product(targets, signals):
            if target is not None:
                client.send(
                    Message(
                        message_type=MessageType.SIGNAL,
                        destination=target,
                        path="/org/freedesktop/DBus",
                        interface=interface,
                        member=member,
                        signature=signature,
                        body=body,
                    )
                )
        with pytest.raises(RemoteError):
            await client.call(
                "org.freedesktop.systemd1",
                "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager",
                "SetEnvironment",
                "as",
                [["A=b"]],
            )
        # What comes after all of that has been heard.
        await start(client, NAME)
        assert [name for name, _ in events.requests] == [NAME]
        assert events.environment == []
        assert events.reloads == 0
        assert events.gone == []
