"""The buses that are compared, all on the same descriptors, and their clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from tests.bench.programs import Programs

# Seconds for a bus to end after SIGTERM.
_END_TIMEOUT: Final = 20.0

# Without <standard_session_servicedirs/>: the three shall know the same names.
_CONFIG: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <keep_umask/>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="service_start_timeout">120000</limit>
</busconfig>
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the things that are compared; without an engine, dbus-daemon on its own."""

    key: str
    title: str
    engine: str = ""


KINDS: Final = (
    Kind("dbus-daemon", "dbus-daemon alone"),
    Kind("broker/dbus-broker", "broker on dbus-broker", "dbus-broker"),
    Kind("broker/dbus-daemon", "broker on dbus-daemon", "dbus-daemon"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A short directory with the programs and one descriptor for each name."""

    path: Path
    programs: Programs
    names: tuple[str, ...]

    @property
    def services(self) -> Path:
        """Where the descriptors are."""
        return self.path / "services"


@contextmanager
def place(count: int) -> Iterator[Place]:
    """A place with ``count`` names; removed at the end.

    A name of its own for each round: dbus-daemon, too, has not seen it before.
    The binary is one, so it is the page cache's in every round but the first.
    """
    path = Path(tempfile.mkdtemp(prefix="dab-", dir="/tmp"))
    try:
        names = tuple(f"org.activation.Bench.S{number:04}" for number in range(count))
        found = Place(path, programs.build(path), names)
        found.services.mkdir()
        for name in names:
            text = f"[D-BUS Service]\nName={name}\nExec={found.programs.service} {name}\n"
            (found.services / f"{name}.service").write_text(text)
        yield found
    finally:
        shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Bus:
    """A running bus.

    Attributes:
        pid: of the process that was started: the broker, or dbus-daemon.
        startup: seconds from its start until it printed its address.
    """

    kind: Kind
    pid: int
    address: str
    startup: float

    def resident(self) -> int:
        """The resident set of its process, in bytes."""
        return resident(self.pid)


def resident(pid: int) -> int:
    """The resident set of a process, in bytes."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError


@contextmanager
def bus(kind: Kind, at: Place) -> Iterator[Bus]:
    """Start a bus, and end it by SIGTERM."""
    name = kind.key.replace("/", "-")
    socket = at.path / name
    if kind.engine:
        command = [sys.executable, "-m", "broker", "serve", f"--engine={kind.engine}"]
        command += [f"--services={at.services}", f"--address=unix:path={socket}"]
        command += ["--stop-timeout=1", "--print-address"]
    else:
        config = at.path / f"{name}.conf"
        config.write_text(_CONFIG.format(socket=socket, services=at.services))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
        command += ["--nosyslog", "--print-address"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DBUS_")}
    started = time.monotonic()
    with subprocess.Popen(
        command,
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # dbus-daemon says there what it activates; a terminal would slow it down.
        stderr=None if kind.engine else subprocess.DEVNULL,
    ) as process:
        try:
            address = _output(process.stdout).readline().strip()
            startup = time.monotonic() - started
            if not address:
                raise programs.BenchError(f"{kind.title} did not start: {' '.join(command)}")
            yield Bus(kind, process.pid, address, startup)
        finally:
            process.terminate()
            try:
                process.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


class Client:
    """The C client on one bus, which does what it is asked to and says how long it took."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str) -> int:
        """One command of client.c; returns nanoseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer = _output(self._process.stdout).readline()
        if not answer:
            raise programs.BenchError(f"the client ended at {command!r}: {self._process.wait()}")
        return int(answer)


@contextmanager
def client(on: Bus, at: Place) -> Iterator[Client]:
    """A client that is connected; it ends when its input does."""
    command = [str(at.programs.client), on.address, "broker" if on.kind.engine else "plain"]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Client(process)
        finally:
            # Harmless where it has ended by itself: Popen signals no PID that it has reaped.
            process.terminate()


def _output(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
