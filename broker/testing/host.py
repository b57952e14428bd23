"""The broker of a test: a child process, and the places and variables that it is given."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Final

from broker.engine.listen import private_directory
from broker.errors import EngineFailed
from broker.process import procfs
from broker.testing import keeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# In seconds. A broker gives an engine 20 for its start.
_START_TIMEOUT: Final = 40.0
# Beyond the stop timeout: 5 for rounds of SIGKILL, 2 for last answers, 4 for the engine.
_STOP_PATIENCE: Final = 15.0

# Of the session that pytest runs in: its bus, its runtime files, its supervisor; and
# what pytest changes for itself.
_FOREIGN: Final = (
    *("DBUS_", "XDG_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"),
    "PYTEST_CURRENT_TEST",
)
# Where the system's own files are: schemas, icons, defaults.
_SHARED: Final = {"XDG_DATA_DIRS", "XDG_CONFIG_DIRS"}
# What would reach out of the test: accessibility starts a bus of its own, and settings
# would be the user's.
_QUIET: Final = {"NO_AT_BRIDGE": "1", "GTK_A11Y": "none", "GSETTINGS_BACKEND": "memory"}
_HOMES: Final = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_CACHE_HOME": ".cache",
}


class Host:
    """A running ``dbus-activator serve``.

    Attributes:
        directory: the test's.
        address: of its bus.
        env: for clients: isolated, with the bus in it.
        services: the directory of descriptors that are the test's own.
    """

    def __init__(
        self,
        options: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        stop_timeout: float,
    ) -> None:
        self.directory = directory
        self.address = ""
        self._patience = stop_timeout + _STOP_PATIENCE
        # Not in the test's directory, which may be deep: a socket's path has 107 bytes, and
        # services make theirs in XDG_RUNTIME_DIR.
        self._locked = private_directory(os.environ)
        self._runtime = self._locked.path
        self.env = _environment(directory, self._runtime) | dict(environ)
        self.services = directory / "services"
        self.services.mkdir()
        # A file: nobody would read a pipe while a broker has much to say.
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - see close
        try:
            self._process = self._spawn(options)
        except BaseException:
            self._clear()
            self.close()
            raise

    def _spawn(self, options: Sequence[str]) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        # A pidfd rather than a pipe, whose other end a fork of pytest's would keep open.
        lifeline = os.pidfd_open(os.getpid())
        try:
            process = subprocess.Popen(
                [
                    # -P: beside the program are modules called `events` and `service`.
                    *(sys.executable, "-P", keeper.__file__, self._runtime),
                    f"--address=unix:path={self._runtime}/bus",
                    f"--services={self.services}",
                    f"--print-address={write}",
                    f"--lifeline={lifeline}",
                    "--output=capture",
                    *options,
                ],
                # The lock is the broker's too, which may outlive us for a moment.
                pass_fds=[write, lifeline, self._locked.fd],
                stdin=subprocess.DEVNULL,
                stdout=self._complaints,
                stderr=self._complaints,
                env=self.env,
                cwd=self.env["HOME"],
                # A Ctrl-C is for pytest: the bus is to be there when it cleans up.
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            os.close(lifeline)
        try:
            with os.fdopen(read, "rb", buffering=0) as pipe:
                self.address = _line(pipe)
            if not self.address:
                process.wait(self._patience)
                raise EngineFailed(self.complaints() or "the bus did not start, without a word")
        except BaseException:
            _end(process, self._patience)
            raise
        self.env["DBUS_SESSION_BUS_ADDRESS"] = self.address
        return process

    @property
    def pid(self) -> int:
        """Of the broker."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The broker's exit status, -N for a signal; None while it runs."""
        return self._process.poll()

    def complaints(self) -> str:
        """What the broker has said on its standard error so far."""
        self._complaints.seek(0)
        return self._complaints.read().decode("utf-8", "replace").strip()

    def stop(self) -> None:
        """End the broker and everything on its bus; returns when nothing is left."""
        try:
            _end(self._process, self._patience)
        finally:
            self._clear()

    def _clear(self) -> None:
        # There is something to clear if the broker had to be killed.
        shutil.rmtree(self._runtime, ignore_errors=True)
        self._locked.close()

    def close(self) -> None:
        """Forget what it has said."""
        self._complaints.close()


def _line(pipe: IO[bytes]) -> str:
    """The first line; empty if the pipe ends before it, or nothing comes."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    said = b""
    while not said.endswith(b"\n") and poll.poll(_START_TIMEOUT * 1000):
        data = pipe.read(4096)
        if not data:
            return ""
        said += data
    return said.decode().strip()


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a broker in order; one that does not end, with all that is below it."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        below = [process.pid]
        for pid in below:
            below += procfs.children_of(pid)
        # The broker first: it cannot start anything any more then.
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _environment(directory: Path, runtime: str) -> dict[str, str]:
    """Ours, with nothing in it that leads out of the test."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in _SHARED or not name.startswith(_FOREIGN)
    } | _QUIET
    home = directory / "home"
    places = {"HOME": home, "TMPDIR": directory / "tmp"}
    places |= {name: home / where for name, where in _HOMES.items()}
    for name, path in places.items():
        path.mkdir(parents=True, exist_ok=True)
        environ[name] = str(path)
    environ["XDG_RUNTIME_DIR"] = runtime
    return environ
