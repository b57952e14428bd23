"""The broker of a test: a child process, with its directories and variables."""

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

# In seconds. The broker allows an engine 20 for its start.
_START_TIMEOUT: Final = 40.0
# Beyond the stop timeout: 5 for rounds of SIGKILL, 2 for last answers, 4 for the engine.
_STOP_PATIENCE: Final = 15.0

# Variables of pytest's session: its bus, its runtime files, its supervisor; and those that
# pytest changes for itself.
_FOREIGN: Final = (
    *("DBUS_", "XDG_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"),
    "PYTEST_CURRENT_TEST",
)
# Paths of the system's own files: schemas, icons, defaults.
_SHARED: Final = {"XDG_DATA_DIRS", "XDG_CONFIG_DIRS"}
# Against leaks out of the test: accessibility starts a bus of its own, and settings would be
# the user's.
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
        services: the directory of the test's own descriptors.
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
        # Not in the test's directory, which may be deep: a socket's path has at most 107 bytes,
        # and services put their sockets in XDG_RUNTIME_DIR.
        self._locked = private_directory(os.environ)
        self._runtime = self._locked.path
        self.env = _environment(directory, self._runtime) | dict(environ)
        self.services = directory / "services"
        self.services.mkdir()
        # A file: a pipe would fill up, with no reader while the broker runs.
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - see close
        try:
            self._process = self._spawn(options)
        except BaseException:
            self._clear()
            self.close()
            raise

    def _spawn(self, options: Sequence[str]) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        # A pidfd rather than a pipe: a fork of pytest's would keep the pipe's other end open.
        lifeline = os.pidfd_open(os.getpid())
        try:
            process = subprocess.Popen(
                [
                    # -P: the program's directory has modules called `events` and `service`.
                    *(sys.executable, "-P", keeper.__file__, self._runtime),
                    f"--address=unix:path={self._runtime}/bus",
                    f"--services={self.services}",
                    f"--print-address={write}",
                    f"--lifeline={lifeline}",
                    "--output=capture",
                    *options,
                ],
                # The broker shares the lock, and may outlive us for a moment.
                pass_fds=[write, lifeline, self._locked.fd],
                stdin=subprocess.DEVNULL,
                stdout=self._complaints,
                stderr=self._complaints,
                env=self.env,
                cwd=self.env["HOME"],
                # Ctrl-C is for pytest alone: its cleanup still needs the bus.
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
                raise EngineFailed(self.complaints() or "the bus did not start, and gave no reason")
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
        """The broker's standard error so far."""
        self._complaints.seek(0)
        return self._complaints.read().decode("utf-8", "replace").strip()

    def stop(self) -> None:
        """End the broker and everything on its bus; returns when no process is left."""
        try:
            _end(self._process, self._patience)
        finally:
            self._clear()

    def _clear(self) -> None:
        # Only needed if the broker was killed.
        shutil.rmtree(self._runtime, ignore_errors=True)
        self._locked.close()

    def close(self) -> None:
        """Discard its standard error."""
        self._complaints.close()


def _line(pipe: IO[bytes]) -> str:
    """The first line; empty if the pipe ends before it, or at a timeout."""
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
    """End a broker in order; if it does not end, kill it with all its descendants."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        below = [process.pid]
        for pid in below:
            below += procfs.children_of(pid)
        # The broker first, so that it cannot start anything more.
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _environment(directory: Path, runtime: str) -> dict[str, str]:
    """Our environment, without variables that lead out of the test."""
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
