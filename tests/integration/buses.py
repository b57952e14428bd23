"""Real brokers for the tests: ``serve`` as a process, on either engine, as either user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from broker.process import guardian, procfs
from tests.aio_client import SERVICE, Client, Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from types import TracebackType

TEST = "org.activation.Test"
NOBODY = 65534
# What a test has started. One that fails may not come to its end.
_started: list[subprocess.Popen[Any]] = []


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed dbus-activator that a user can run; ``uid`` None is ourselves."""

    command: Path
    uid: int | None = None

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program as the user."""
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.uid, "extra_groups": []}
        process = subprocess.Popen([str(each) for each in argv], **options)
        _started.append(process)
        return process

    def run(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program as the user, to its end, with its output as text."""
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.run(
            [str(each) for each in argv],
            check=False,
            text=True,
            capture_output=True,
            timeout=50,
            **options,
        )


@dataclass(slots=True)
class Place:
    """A short directory that the user owns: descriptors, sockets and scripts of one test."""

    path: Path
    user: Installation
    service: Path
    engine: str

    @property
    def services(self) -> Path:
        """Where descriptors go."""
        return self.path / "services"

    def write(self, name: str, text: str | bytes, *, mode: int = 0o755) -> Path:
        """A file in the place."""
        path = self.path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    def add(self, name: str, command: str | None = None, *, extra: str = "") -> None:
        """A descriptor; by default of the C service with no misbehaviour."""
        line = f"Exec={command or f'{self.service} {name}'}\n"
        self.write(f"services/{name}.service", f"[D-BUS Service]\nName={name}\n{line}{extra}")

    def fifo(self, name: str) -> Path:
        """A FIFO for the C service's -w."""
        path = self.path / name
        os.mkfifo(path)
        path.chmod(0o666)
        return path

    def environ(self, **changes: str) -> dict[str, str]:
        """Of a user who has no session yet."""
        environ = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.path),
            "XDG_RUNTIME_DIR": str(self.path),
        }
        return environ | changes

    def serve(self, *options: str, environ: Mapping[str, str] | None = None) -> Bus:
        """A broker on this place's descriptors, to be entered."""
        return Bus(self, options, environ if environ is not None else self.environ())

    def run(self, *argv: str, options: Sequence[str] = (), **kwargs: Any) -> Any:
        """``dbus-activator run`` on this place's descriptors."""
        kwargs.setdefault("env", self.environ())
        return self.user.run(
            [
                self.user.command,
                "run",
                f"--engine={self.engine}",
                f"--services={self.services}",
                *options,
                "--",
                *argv,
            ],
            cwd=self.path,
            **kwargs,
        )


@dataclass(slots=True)
class Bus:
    """A running ``dbus-activator serve``.

    Attributes:
        address: as it was printed.
        client: connected to it.
    """

    place: Place
    options: Sequence[str]
    environ: Mapping[str, str]
    address: str = ""
    _process: subprocess.Popen[bytes] | None = None
    # A file, since nobody would read a pipe in time when a broker has much to say.
    _complaints: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _client: Client | None = None
    _signals: asyncio.Queue[Signal] = field(default_factory=asyncio.Queue)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        read, write = os.pipe()
        command = [
            str(self.place.user.command),
            "serve",
            f"--engine={self.place.engine}",
            f"--services={self.place.services}",
            f"--address=unix:path={self.place.path}/bus",
            f"--print-address={write}",
            *self.options,
        ]
        self._process = self.place.user.popen(
            command,
            env=dict(self.environ),
            cwd=self.place.path,
            pass_fds=[write],
            stderr=self._complaints,
        )
        os.close(write)
        with os.fdopen(read) as output:
            # A line, not all of it: what was put around the broker may hold the pipe, too.
            self.address = (await asyncio.to_thread(output.readline)).strip()
        if not self.address:
            raise AssertionError(f"serve failed: {await self.ended()}")
        self._client = await Client.connect(self.address)
        await self.client.subscribe(self._on_signal)
        # Answered after the broker has closed what it had printed its address on.
        await self.client.call("ListServices")
        async with asyncio.timeout(20):
            while self._has_nameless_fork():
                await self.client.call("ListServices")
        return self

    def _has_nameless_fork(self) -> bool:
        """Whether a guardian is so new that it still has the broker's name."""
        own = procfs.stat(self.pid)
        children = map(procfs.stat, procfs.children_of(self.pid))
        return own is not None and any(each and each.comm == own.comm for each in children)

    def _on_signal(self, signal: Signal) -> None:
        self._signals.put_nowait(signal)
        self._changed.set()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.__aexit__(kind, value, traceback)
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        complaints = await self.ended()
        # pytest shows it with a failed test.
        sys.stderr.write(complaints)

    @property
    def client(self) -> Client:
        """The connected client."""
        assert self._client is not None
        return self._client

    @property
    def pid(self) -> int:
        """Of the broker."""
        assert self._process is not None
        return self._process.pid

    @property
    def engine(self) -> int:
        """The PID of the message bus."""
        (pid,) = [
            pid
            for pid in procfs.children_of(self.pid)
            if (about := procfs.stat(pid)) and about.comm == self.place.engine
        ]
        return pid

    @property
    def status(self) -> int | None:
        """The broker's exit status."""
        assert self._process is not None
        return self._process.returncode

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the broker."""
        os.kill(self.pid, number)

    async def ended(self) -> str:
        """Wait for the broker's end, and return what it said on stderr."""
        assert self._process is not None
        await asyncio.to_thread(self._process.wait)
        if self._complaints.closed:
            return ""
        with self._complaints as complaints:
            complaints.seek(0)
            return complaints.read().decode()

    # -- calls and queries -----------------------------------------------------

    async def call(self, name: str, member: str, signature: str = "", *arguments: Any) -> Any:
        """A plain method call to one of the C services; its first result."""
        body = await self.client.bus.call(
            name, "/org/activation/Test", TEST, member, signature, list(arguments), timeout=40
        )
        return body[0] if body else None

    async def echo(self, name: str, text: str = "hello") -> str:
        """A plain method call that is answered; the broker has heard of the name then."""
        answer: str = await self.call(name, "Echo", "s", text)
        await self.state(name, "running")
        return answer

    async def path_of(self, name: str) -> str:
        """The object of a service."""
        (path,) = await self.client.call("GetService", "s", name)
        return str(path)

    async def get(self, name: str, *properties: str) -> Any:
        """Properties of a service: one value, or several as a tuple."""
        path = await self.path_of(name)
        values = tuple([await self.client.get(path, SERVICE, each) for each in properties])
        return values[0] if len(values) == 1 else values

    async def signal(self, member: str, *, service: str | None = None) -> list[Any]:
        """The arguments of the next signal with this name, and of this service."""
        async for each in self.signals():
            if each.member == member and (service is None or service in each.body):
                return each.body
        raise AssertionError

    async def signals(self) -> AsyncIterator[Signal]:
        """The broker's signals as they come."""
        while True:
            async with asyncio.timeout(20):
                signal = await self._signals.get()
            yield signal

    async def state(self, name: str, *wanted: str) -> str:
        """Wait until a service's SubState is one of those wanted."""
        async with asyncio.timeout(20):
            while True:
                self._changed.clear()
                state: str = await self.get(name, "SubState")
                if state in wanted:
                    return state
                await self._changed.wait()

    def tree(self) -> list[int]:
        """Every live process below the broker, but its guardian."""
        found = [self.pid]
        for pid in found:
            found += procfs.children_of(pid)
        spared = guardians_of(self.pid)
        return [pid for pid in found[1:] if pid not in spared and procfs.alive(pid)]


def build_service(directory: Path) -> Path:
    """Compile the C service into a directory."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "dbus-1"], check=True, text=True, capture_output=True
    ).stdout.split()
    target = directory / "service"
    source = Path(__file__).parent / "service.c"
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", target, source, *flags], check=True)
    return target


def guardians_of(broker: int) -> list[int]:
    """The guardian of a broker: one, but for a moment when it has lost it."""
    return [
        pid
        for pid in procfs.children_of(broker)
        if (about := procfs.stat(pid)) and about.comm == guardian.NAME
    ]


class Witness:
    """The reader of a FIFO that all the processes of a service hold open.

    Attributes:
        heard: what they have written.
    """

    def __init__(self, path: Path) -> None:
        # Not blocking: who opens it for writing comes later, or waits until it is here.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.heard = ""

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)

    async def hear(self, letters: str) -> None:
        """Wait until so much was written."""
        while any(self.heard.count(each) < letters.count(each) for each in letters):
            assert await asyncio.to_thread(self._read, 20), f"heard only {self.heard!r}"

    async def see_end(self) -> None:
        """Wait until none of the processes is left."""
        while await asyncio.to_thread(self._read, 10):
            pass

    def at_end(self) -> bool:
        """Whether none of them is left at this moment."""
        while is_readable(self._fd, 0):
            if not self._read(0):
                return True
        return False

    def _read(self, timeout: float) -> str:
        assert is_readable(self._fd, timeout), f"some are left, and have said {self.heard!r}"
        data = os.read(self._fd, 4096).decode()
        self.heard += data
        return data


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile; to be used where nobody waits for it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # The signal is sent at once and taken a little later.
        while (about := procfs.stat(pid)) and about.state != "T":
            pass
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def open_fifo(path: Path, mode: str) -> IO[Any]:
    """Open a FIFO, which waits until its other end is opened.

    Should the test end before, the thread that waits is let go: the end of the loop
    would wait for it.
    """
    try:
        return await asyncio.to_thread(open, path, mode)
    except asyncio.CancelledError:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        raise


def is_readable(fd: int, timeout: float) -> bool:
    """Whether there is data, or the end of file, within this number of seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


@contextlib.contextmanager
def flooding(bus: Bus, *arguments: str) -> Iterator[IO[bytes]]:
    """A flood of our own user's, see ``flooder``, and what it says; it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.flooder", bus.address, *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    _started.append(process)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flooding\n"
        yield process.stdout


def without_the_hosts(said: str) -> str:
    """Diagnostics, but for those of what the host has: broken files, two for one name."""
    hosts = tuple(f"dbus-activator: {each}/" for each in ("/usr/share", "/usr/local/share"))
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(hosts))


def end_started() -> None:
    """End what a test has left running; a broker's guardian ends all that is below it."""
    for process in _started:
        if process.poll() is None:
            process.kill()
            process.wait()
    _started.clear()


def short_directory(user: Installation) -> Path:
    """A directory of the user's with a path that leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="dat-", dir="/tmp"))
    (path / "services").mkdir()
    if user.uid is not None:
        for each in (path, path / "services"):
            os.chown(each, user.uid, user.uid)
    return path


def remove(path: Path) -> None:
    """A directory and all in it."""
    shutil.rmtree(path)
