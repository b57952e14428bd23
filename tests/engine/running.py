"""A real engine in pytest's own process, driven by hand, and all that is said to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker.bus import address
from broker.bus.connection import Connection
from broker.core.attribution import Attribution, Origin
from broker.core.processes import Process, Processes
from broker.engine import listen
from broker.engine.base import Engine, EngineSettings
from broker.engine.dbus_broker import DBusBroker
from broker.engine.dbus_daemon import DBusDaemon
from broker.errors import DBusError
from broker.process import clock
from broker.process.spawn import Program, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from pathlib import Path

    import pytest

    from broker.bus.codec import Message
    from broker.core.events import Token

ENGINES: dict[str, type[Engine]] = {"dbus-broker": DBusBroker, "dbus-daemon": DBusDaemon}


@dataclass
class Events:
    """What the engine says; each activation is answered with ``error`` at once.

    Attributes:
        reload_error: raised by the next reload.
    """

    error: DBusError = field(default_factory=lambda: DBusError("not today"))
    reload_error: DBusError | None = None
    requests: list[tuple[str, Token]] = field(default_factory=list)
    environment: list[Mapping[str, str]] = field(default_factory=list)
    reloads: int = 0
    gone: list[str] = field(default_factory=list)
    engine: Engine | None = None

    def activation_requested(self, name: str, token: Token) -> None:
        self.requests.append((name, token))
        assert self.engine is not None
        self.engine.fail(name, token, self.error)

    def environment_updated(self, changes: Mapping[str, str]) -> None:
        self.environment.append(changes)

    async def reload_requested(self) -> None:
        self.reloads += 1
        if self.reload_error is not None:
            raise self.reload_error

    def engine_gone(self, reason: str) -> None:
        self.gone.append(reason)


class Started:
    """The programs that an engine started; none of them outlives a test."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.pids: list[int] = []
        self._processes = Processes()

    def spawn(self, program: Program) -> Process:
        pid = spawn(program)
        self.programs.append(program)
        self.pids.append(pid)
        return self._processes.add(
            pid,
            ppid=os.getpid(),
            service="",
            activation=len(self.pids),
            origin=Origin.SPAWNED,
            attribution=Attribution.SPAWNED,
            started=clock.now(),
            command=tuple(program.argv),
        )

    def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)  # zombies take it as well
            os.waitpid(pid, 0)


def make(name: str, place: Path, program: str = "") -> tuple[Engine, Events, Started]:
    """An engine that is not started yet, on a socket in the place."""
    events, started = Events(), Started()
    settings = EngineSettings(
        program=program or shutil.which(name) or "",
        listener=listen.from_option(f"unix:path={place}/bus"),
        machine_id="0" * 32,
        start_timeout=30,
    )
    events.engine = ENGINES[name](settings, events, started.spawn)
    return events.engine, events, started


@contextlib.asynccontextmanager
async def running(
    name: str, place: Path, names: Collection[str]
) -> AsyncIterator[tuple[Engine, Events, Connection]]:
    """An engine that serves these names, its events, and a client of it."""
    engine, events, started = make(name, place)
    try:
        await engine.start(names)
        client = await Connection.to_bus(address.connect(f"unix:path={place}/bus"))
        try:
            yield engine, events, client
        finally:
            client.close()
            await client.wait_closed()
    finally:
        engine.stop()
        started.end()
        engine.settings.listener.close()


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Connection, Message]]:
    """Every message that is sent by any connection from now on, with its connection."""
    sent: list[tuple[Connection, Message]] = []

    def recorded(method: Any) -> Any:
        def send(self: Connection, message: Message, *arguments: Any) -> Any:
            sent.append((self, message))
            return method(self, message, *arguments)

        return send

    for each in ("send", "send_with_fds"):
        monkeypatch.setattr(Connection, each, recorded(getattr(Connection, each)))
    return sent
