"""dbus-daemon as the engine: it takes us for systemd.

With ``--systemd-activation`` it does not start a service whose file has a
``SystemdService``, but asks the owner of ``org.freedesktop.systemd1`` to do so.
So it is started on a directory of files made here, one for each activatable name,
and we own systemd's name on a connection that serves nothing else. A failure goes
back with our own error name and text, which its callers see.

It aborts on an invalid error name and crashes on an answer with another signature:
both are impossible below.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from broker.bus.codec import Message, MessageType
from broker.bus.driver import DO_NOT_QUEUE, DRIVER, PRIMARY_OWNER
from broker.bus.frames import MAX_MESSAGE
from broker.bus.lasting import LastingConnection
from broker.core.printable import bounded
from broker.engine import daemon_config
from broker.engine.base import START_TIMEOUT, Engine, read_pipe
from broker.engine.listen import private_directory
from broker.errors import (
    BadConfiguration,
    DBusError,
    EngineFailed,
    NotReloaded,
    ShuttingDown,
    UnknownMethod,
    UnknownObject,
)
from broker.process.lease import Gate
from broker.process.locked import umask
from broker.process.spawn import file_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker.bus.connection import Connection
    from broker.core.events import Token
    from broker.core.processes import Process
    from broker.engine.base import EngineEvents, EngineSettings
    from broker.process.locked import LockedDirectory
    from broker.process.spawn import Program

log = logging.getLogger(__name__)

SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"
ACTIVATOR: Final = "org.freedesktop.systemd1.Activator"
MANAGER: Final = "org.freedesktop.systemd1.Manager"

# Its limits are ints; it would not start with a larger value.
_INT_MAX: Final = 2**31 - 1
# The limits of dbus-daemon's own session.conf, where they differ from its
# built-in ones for a system bus: one user's session needs no protection from itself.
_LIMITS: Final = {
    "max_incoming_bytes": 1_000_000_000,
    "max_incoming_unix_fds": 250_000_000,
    "max_outgoing_bytes": 1_000_000_000,
    "max_outgoing_unix_fds": 250_000_000,
    "max_message_size": 1_000_000_000,
    "auth_timeout": 240_000,
    "pending_fd_timeout": 150_000,
    "max_completed_connections": 100_000,
    "max_incomplete_connections": 10_000,
    "max_connections_per_user": 100_000,
    "max_pending_service_starts": 10_000,
    "max_names_per_connection": 50_000,
    "max_match_rules_per_connection": 50_000,
    "max_replies_per_connection": 50_000,
}
# The built-in values of the limits that its table of descriptors may lower.
_BUILT_IN: Final = {
    "max_completed_connections": 2048,
    "max_incomplete_connections": 64,
    "max_connections_per_user": 256,
}
_BUILT_IN_RULES: Final = 512
# The built-in max_message_size, in bytes (bus/config-parser.c).
_BUILT_IN_MESSAGE: Final = 32 << 20
# Any question of ours to the bus, and any error with its text, is smaller.
_LEAST_MESSAGE: Final = 8 << 10
# Places in that table: its own, and from version 1.15 on those of each connection: the
# socket and four or five pidfds of the same process.
_OWN_FDS: Final = 24
_PIDFDS: Final = (1, 15)
_PLACES: Final = 6
# Limits of connections that count clients' alone: ours (names, objects, activations) are extra.
_COUNTING: Final = {"max_completed_connections", "max_connections_per_user"}
_OWN_CONNECTIONS: Final = 3
# The least connections for a session, one of them not authenticated yet.
_LEAST: Final = 5

# The suffix of incomplete files, since the bus watches their directory.
_UNFINISHED: Final = ".new"
# <linux/limits.h>: the longest file name, in bytes.
_NAME_MAX: Final = 255

# Without --systemd-activation it would run the Exec and say "exited with status 1".
_SERVICE: Final = """\
[D-BUS Service]
Name={name}
Exec=/bin/false
SystemdService={name}
"""


def connections(table: int) -> dict[str, int]:
    """Its limits of connections, for which its table has places.

    Versions 1.15 and 1.16 hang for ever when their table is full: they mistake the failure
    to copy a descriptor for a shortage of memory, and wait for its end.

    Args:
        table: RLIMIT_NOFILE of the bus.

    Raises:
        EngineFailed: it has no room for us, a service and its client.
    """
    room = (table - _OWN_FDS) // _PLACES
    if room < _LEAST:
        raise EngineFailed(
            f"dbus-daemon needs {_OWN_FDS + _LEAST * _PLACES} descriptors, "
            f"and may have {table}: Too many open files"
        )
    incomplete = min(max(room // 4, 1), 10_000)
    completed = min(room - incomplete, 100_000)
    return {
        "max_completed_connections": completed,
        "max_incomplete_connections": incomplete,
        "max_connections_per_user": completed,
    }


class DBusDaemon(Engine):
    """The reference implementation's message bus."""

    program = "dbus-daemon"
    # On SIGTERM it would remove the file at its socket's path, even another bus's.
    stop_signals = (signal.SIGKILL,)
    # It compares each rule with every change of a name, also of ":1.5": some 0.5 µs, eight
    # times for each short-lived client.
    max_rules = 64

    def __init__(
        self, settings: EngineSettings, events: EngineEvents, spawn: Callable[[Program], Process]
    ) -> None:
        super().__init__(settings, events, spawn)
        self._number = (0, 0)  # its version
        self._directory: LockedDirectory | None = None
        self._services = ""
        self._config = ""
        self._gated = ""
        self._names: dict[str, str] = {}  # each with its descriptor file
        self._count = itertools.count(1)
        self._tokens = itertools.count(1)
        self._link: LastingConnection | None = None
        self._gate: Gate | None = None
        self._unsent: list[Message] = []  # queued while the connection is lost
        self._reload_task: asyncio.Task[None] | None = None
        self._reload_again = False

    @property
    def largest_message(self) -> int:
        """As configured."""
        return min(self._limits.get("max_message_size", _BUILT_IN_MESSAGE), MAX_MESSAGE)

    @property
    def admits_others(self) -> bool:
        """Whether a rule names a user other than root; always so for a system bus.

        Any rule that allows counts: neither the order of the rules nor our own user's name is
        looked at.
        """
        rules = ET.fromstring(f"<busconfig>{daemon_config.policy(self.settings.rules)}</busconfig>")  # noqa: S314
        return self.settings.rules.kind == "system" or any(
            rule.get("user", "root") not in ("root", "0") or "group" in rule.attrib
            for rule in rules.iter("allow")
        )

    @property
    def _limits(self) -> dict[str, int]:
        rules = self.settings.rules
        # A system bus keeps the built-in limits, unless it is given others.
        return {**_LIMITS, **rules.limits} if rules.kind == "session" else dict(rules.limits)

    async def start(self, names: Collection[str]) -> None:
        """Start it on a directory of generated files, and own systemd's name on it."""
        if self.largest_message < _LEAST_MESSAGE:
            raise BadConfiguration(
                f"max_message_size: {self.largest_message} bytes are too few for our own "
                f"messages, which need {_LEAST_MESSAGE}"
            )
        number = await self._read_version(r"Daemon (\d+\.\d+\S*)")
        self.version = f"dbus-daemon {number}"
        major, minor, *_ = number.split(".")
        self._number = (int(major), int(minor))
        self._directory = private_directory(os.environ)
        path = self._directory.path
        self._services = os.path.join(path, "services")
        self._config = os.path.join(path, "bus.conf")
        self._gated = os.path.join(path, "gate.conf")
        try:
            with umask(0o077):
                os.mkdir(self._services)
                self._write_services(frozenset(names))
                self._write_config()
        except OSError as e:
            raise EngineFailed(f"cannot write {e.filename or path}: {e.strerror}") from e
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = self._launch_on(write)
        finally:
            os.close(write)
        printed = await read_pipe(read, b"\n")
        if not printed.strip():
            raise await self._failed("ended before it served its bus")
        self.settings.listener.bound()
        link = LastingConnection("activations", self._take_systemd)
        try:
            await link.open(printed.strip(), timeout=START_TIMEOUT)
        except DBusError as e:
            raise await self._failed(f"does not pass on activations: {e}") from e
        self._link = link
        self._gate = Gate(self._gated, daemon_config.GATE, self._on_reading, self._not_gated)
        self._gate.shut()

    def _write_config(self) -> None:
        rules = self.settings.rules
        limits = self._limits
        patience = min(round(min(self.settings.start_timeout, _INT_MAX) * 1000), _INT_MAX)
        limits["service_start_timeout"] = patience
        for name in _COUNTING & limits.keys():
            limits[name] = min(limits[name] + _OWN_CONNECTIONS, _INT_MAX)
        # A configuration file may allow less than we need ourselves.
        rules_limit = limits.get("max_match_rules_per_connection", _BUILT_IN_RULES)
        limits["max_match_rules_per_connection"] = max(rules_limit, 2 * self.max_rules)
        if self._number >= _PIDFDS:
            _, table = file_limit()
            for name, most in connections(table).items():
                limits[name] = min(limits.get(name, _BUILT_IN[name]), most)
        listener = self.settings.listener
        # "systemd:" is its address for a passed socket.
        listen = "systemd:" if listener.sock else str(listener.address)
        with open(self._config, "w", encoding="utf-8") as file:
            file.write(daemon_config.text(rules, listen, self._services, limits, self._gated))

    def _launch_on(self, print_fd: int) -> int:
        argv = [
            self.settings.program,
            f"--config-file={self._config}",
            "--systemd-activation",
            "--nofork",
            "--nosyslog",
            "--nopidfile",
            "--print-address=4",
        ]
        sock = self.settings.listener.sock
        if sock is None:
            return self._launch(argv, {4: print_fd})
        # LISTEN_PID must be its PID, known only to the process that executes it.
        argv = ["/bin/sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", *argv]
        return self._launch(argv, {3: sock.fileno(), 4: print_fd})

    async def _take_systemd(self, link: Connection) -> None:
        # The handler first: messages queued for the name come before the answer.
        link.on_message = partial(self._on_message, link)
        rule = f"type='signal',sender='{DRIVER}',member='ActivatableServicesChanged'"
        await link.call_bus("AddMatch", "s", [rule])
        # Requests that arrive while the name has no owner are kept for the next one.
        first = self._link is None
        flags = DO_NOT_QUEUE if first else 0
        (answer,) = await link.call_bus("RequestName", "su", [SYSTEMD, flags])
        if answer == PRIMARY_OWNER:
            unsent, self._unsent = self._unsent, []
            for each in unsent:
                link.send(each)
            return
        if first:
            # A client connected before us, through a socket that was passed to us.
            raise EngineFailed(f"another process owns {SYSTEMD} already")
        log.error("another process owns %s: no service is started until we own it again", SYSTEMD)

    async def set_names(self, names: Collection[str]) -> None:
        """Write and remove files, then call ReloadConfig, which returns when they are known."""
        wanted = frozenset(names)
        if wanted != self._names.keys():
            assert self._link is not None
            self._rewrite_services(wanted)
            await self._link.call_bus("ReloadConfig")

    def _on_reading(self) -> None:
        """Update the files: the bus is reading its configuration, and stands still meanwhile.

        It answers a client's ReloadConfig itself, before we could hear of it: the names must
        be there when it looks. (Rejected: to let it read the true directories, since it would
        start the services found there itself; a FIFO among the descriptors, which would hold
        it up at each call for an unknown name.)
        """
        if self.names_now is None:
            return
        try:
            self._rewrite_services(frozenset(self.names_now()))
        except NotReloaded as e:
            log.warning("the configuration was not reloaded: %s", e)

    def _not_gated(self, reason: OSError) -> None:
        log.warning(
            "no lease on %s (%s): new names may be unknown for a moment after ReloadConfig",
            self._gated,
            reason.strerror,
        )

    def _rewrite_services(self, wanted: frozenset[str]) -> None:
        try:
            with umask(0o077):
                self._write_services(wanted)
        except OSError as e:
            # A cleaner of /tmp may have removed the directory, or the disk is full.
            what = e.filename or self._services
            raise NotReloaded(f"cannot write {what}: {e.strerror}") from e

    def _write_services(self, wanted: frozenset[str]) -> None:
        for name in self._names.keys() - wanted:
            _unlink(self._names.pop(name))
        for name in wanted - self._names.keys():
            path = self._file(name)
            with open(f"{path}{_UNFINISHED}", "w", encoding="ascii") as file:
                file.write(_SERVICE.format(name=name))
            os.rename(f"{path}{_UNFINISHED}", path)
            self._names[name] = path

    def _file(self, name: str) -> str:
        # Any file name will do. A bus name may be as long as a file's, and is never a number.
        fits = len(f"{name}.service{_UNFINISHED}") <= _NAME_MAX
        return os.path.join(self._services, f"{name if fits else next(self._count)}.service")

    def fail(self, name: str, token: Token, error: DBusError) -> None:
        """Send ActivationFailure, with the error for the callers."""
        del token  # it has no serials: a name is either wanted or not
        failure = Message(
            message_type=MessageType.SIGNAL,
            destination=DRIVER,
            path=SYSTEMD_PATH,
            interface=ACTIVATOR,
            member="ActivationFailure",
            signature="sss",
            # On a NUL it would take us for hostile, and disconnect us.
            body=[name, error.dbus_name, bounded(str(error)).replace("\0", "\\0")],
        )
        assert self._link is not None
        if self._link.up.is_set():
            self._link.connection.send(failure)
        else:
            self._unsent.append(failure)

    def dismiss(self, name: str, token: Token) -> None:
        """Do nothing: a failure could hit a newer request, and the bus has a timeout."""

    @property
    def lifelines(self) -> list[int]:
        """Ours, and the lock on its files."""
        return [*super().lifelines, *([self._directory.fd] if self._directory else [])]

    def stop(self) -> None:
        """Disconnect from the bus and remove its files."""
        super().stop()
        if self._gate is not None:
            self._gate.close()
        if self._link is not None:
            self._link.close()
        if self._directory is not None:
            try:
                self._directory.remove()
            except OSError as e:
                log.warning("%s is left: %s", self._directory.path, e.strerror)

    # -- its messages ----------------------------------------------------------

    def _on_message(self, link: Connection, message: Message) -> None:
        from_driver = message.sender == DRIVER
        if message.message_type is MessageType.METHOD_CALL:
            if from_driver and (message.interface, message.member) == (MANAGER, "SetEnvironment"):
                # "K=V" each, made from a client's a{ss}: a "=" within the key is not recognisable.
                pairs = (entry.partition("=") for entry in message.body[0])
                self.events.environment_updated({key: value for key, _, value in pairs})
            else:
                _refuse(link, message)
        elif from_driver and (message.interface, message.member) == (
            ACTIVATOR,
            "ActivationRequest",
        ):
            # Also for a name that we have removed since: only we can end its caller's wait.
            self.events.activation_requested(message.body[0], next(self._tokens))
        elif from_driver and message.member == "ActivatableServicesChanged":
            self._reload_again = True
            if self._reload_task is None or self._reload_task.done():
                self._reload_task = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        """Reload: either a client has called ReloadConfig, or it was our own set_names."""
        while self._reload_again:
            self._reload_again = False
            try:
                await self.events.reload_requested()
            except ShuttingDown:
                pass  # at shutdown a reload is of no use
            except DBusError as e:
                log.warning("the configuration was not reloaded: %s", e)


def _refuse(link: Connection, call: Message) -> None:
    """Tell a client that looks for systemd at once that we are not systemd."""
    error: DBusError = UnknownObject("systemd is not running on this bus")
    if call.path == SYSTEMD_PATH:
        error = UnknownMethod(f"{SYSTEMD} is only here to receive activations")
    link.reply_error(call, error)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
