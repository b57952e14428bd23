"""The interface of a message bus to the rest of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from broker.bus.frames import MAX_MESSAGE
from broker.core.environment import inherited
from broker.errors import EngineFailed
from broker.process.spawn import Program, SpawnRefusedError, raised_file_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from broker.core.events import Token
    from broker.core.processes import Process
    from broker.engine.listen import Listener
    from broker.errors import DBusError

log = logging.getLogger(__name__)

# A variable in the environment of the bus that we start: a program of the bus's name in
# PATH may be ourselves, by way of a script.
ENGINE_MARK: Final = "DBUS_ACTIVATOR_ENGINE"
# How long an engine may take to say its version or to serve its first client.
START_TIMEOUT: Final = 20.0
# How long to wait for a failed engine's last output; one that hangs writes nothing.
LAST_WORDS_TIMEOUT: Final = 1.0
# A version and an address have a tenth of it; a wrong program may print without end.
MAX_PRINTED: Final = 4096


class EngineEvents(Protocol):
    """An engine's events for the daemon; called from within the event loop."""

    def activation_requested(self, name: str, token: Token) -> None:
        """A client wants a name without an owner; ``fail`` takes the token."""

    def environment_updated(self, changes: Mapping[str, str]) -> None:
        """A client updated the activation environment; the changes are unchecked."""

    async def reload_requested(self) -> None:
        """A client wants the configuration read again; raises DBusError if that failed."""

    def engine_gone(self, reason: str) -> None:
        """The bus has ended, or has closed its connection to us."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A configuration file's rules for the bus itself; by default a session bus, open to us.

    Attributes:
        kind: session or system.
        policy: ``<policy>`` elements; without any, a session bus allows everything.
        restricts: FILE:LINE of a rule that only dbus-daemon can apply; empty for none.
        limits: by name, for dbus-daemon.
    """

    kind: str = "session"
    policy: Sequence[str] = ()
    restricts: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of an engine.

    Attributes:
        start_timeout: in seconds; after that, an engine with a timeout of its own may
            give up an activation. Our timeout is shorter.
    """

    program: str
    listener: Listener
    machine_id: str
    start_timeout: float
    rules: Rules = field(default_factory=Rules)


class Engine(ABC):
    """A message bus that hands activations to us.

    Attributes:
        pid: of its process; 0 before the start.
        version: as in the Engine property, such as "dbus-broker 33".
        max_rules: how many match rules of one connection have a negligible cost.
        names_now: returns the activatable names; called by an engine that is about to read
            them for a client; the whole bus stands still until it returns.
    """

    program: ClassVar[str]
    # The signals to end it, in order.
    stop_signals: ClassVar[Sequence[int]] = (signal.SIGTERM, signal.SIGKILL)
    max_rules: ClassVar[int]

    def __init__(
        self, settings: EngineSettings, events: EngineEvents, spawn: Callable[[Program], Process]
    ) -> None:
        self.settings = settings
        self.events = events
        self.pid = 0
        self.version = ""
        self.names_now: Callable[[], Collection[str]] | None = None
        self._spawn = spawn
        self._complaints: EngineLog | None = None

    @property
    def largest_message(self) -> int:
        """The largest message in bytes; it disconnects a sender of a larger one."""
        return MAX_MESSAGE

    @property
    @abstractmethod
    def admits_others(self) -> bool:
        """Whether its policy may admit users other than ours and root."""

    @abstractmethod
    async def start(self, names: Collection[str]) -> None:
        """Start the bus with these names activatable; then clients can connect.

        Raises:
            EngineFailed: it did not come up.
            EngineMissing: its version cannot be used.
        """

    @abstractmethod
    async def set_names(self, names: Collection[str]) -> None:
        """Make exactly these names activatable; returns when the bus knows them."""

    @abstractmethod
    def fail(self, name: str, token: Token, error: DBusError) -> None:
        """Answer the waiting callers with an error, as far as the bus can express it."""

    @abstractmethod
    def dismiss(self, name: str, token: Token) -> None:
        """Fail a request that may be over already, without harm to newer requests."""

    @property
    def lifelines(self) -> list[int]:
        """Our descriptors without which the bus would end, or lose its files."""
        return self.settings.listener.lock

    def stop(self) -> None:
        """Disconnect from the bus, which is about to be ended."""
        if self._complaints is not None:
            self._complaints.close()

    def _launch(self, argv: Sequence[str], fds: Mapping[int, int]) -> int:
        """Start the bus, with its diagnostics in our log rather than on our stderr.

        dbus-daemon writes there of each activation that it is "via systemd". It gets no standard
        output either: in the background we release ours, and it would keep it open.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._spawn_program(argv, {**fds, 2: write}, null_output=True)
        except EngineFailed:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._complaints = EngineLog(read, self.program)
        return pid

    def _spawn_program(
        self, argv: Sequence[str], fds: Mapping[int, int], *, null_output: bool = False
    ) -> int:
        program = Program(
            argv=argv,
            name=self.program,
            environ=inherited(os.environ) | {ENGINE_MARK: "1"},
            search=True,
            null_output=null_output,
            fds=fds,
        )
        try:
            with raised_file_limit():
                return self._spawn(program).pid
        except SpawnRefusedError as e:
            raise EngineFailed(f"cannot start the message bus: {e}") from e

    async def _failed(self, reason: str) -> EngineFailed:
        """The error, with the bus's last line, which mostly says why."""
        said = ""
        if self._complaints is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_TIMEOUT):
                    await self._complaints.ended.wait()
            said = self._complaints.last
        return EngineFailed(f"{self.version} {reason}" + (f": {said}" if said else ""))

    async def _read_version(self, pattern: str) -> str:
        """The version, as the program prints it."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            self._spawn_program([self.settings.program, "--version"], {1: write})
        except EngineFailed:
            os.close(read)
            raise
        finally:
            os.close(write)
        output = await read_pipe(read, b"")
        match = re.search(pattern, output)
        if match is not None:
            return match[1]
        program = self.settings.program
        if output.startswith("dbus-activator"):
            raise EngineFailed(
                f"{program} is no message bus, but leads back to dbus-activator: put the real "
                f"{self.program} before it in PATH"
            )
        raise EngineFailed(f"{program} is no {self.program}: --version printed {output[:200]!r}")


def machine_id() -> str:
    """The host's ID, which clients compare with their own; a random one if there is none."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
            if re.fullmatch("[0-9a-f]{32}", text):
                return text
    return os.urandom(16).hex()


class EngineLog:
    """Copies a bus's diagnostics line by line into our log.

    Attributes:
        last: the newest line.
        ended: set at the end of the output.
    """

    def __init__(self, fd: int, program: str) -> None:
        self.last = ""
        self.ended = asyncio.Event()
        self._fd = fd
        self._program = program
        self._rest = b""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        data = os.read(self._fd, 65536)
        if not data:
            self.close()
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-4096:]
        for line in lines:
            self.last = line.decode("utf-8", "backslashreplace")
            log.info("%s: %s", self._program, self.last)

    def close(self) -> None:
        """Stop reading."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.ended.set()


async def read_pipe(fd: int, until: bytes) -> str:
    """Text from a pipe up to its end or to ``until``; closes the pipe.

    At most ``MAX_PRINTED`` bytes are read.

    Raises:
        EngineFailed: neither came within ``START_TIMEOUT``.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    data = bytearray()
    os.set_blocking(fd, False)

    def on_readable() -> None:
        chunk = os.read(fd, 4096)
        data.extend(chunk)
        whole = not chunk or (until and until in data) or len(data) > MAX_PRINTED
        if whole and not done.done():
            done.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        # Not by asyncio.timeout, which drops data that has arrived by the timeout: this
        # process may have stood still.
        if not (await asyncio.wait([done], timeout=START_TIMEOUT))[0]:
            raise EngineFailed("the message bus does not start")
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return data.decode("utf-8", "backslashreplace")
