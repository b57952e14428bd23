"""dbus-broker as the engine: we are its controller, over a socket pair.

The protocol is the one between dbus-broker and its own launcher, spoken peer
to peer: no Hello, no names. The bus exits with status 0 on an unexpected answer,
on a signal from us, and on an unknown error name; so we send only the messages
below, and answer only ReloadConfig.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from broker.bus.codec import Message, MessageType, Variant
from broker.bus.connection import TAKEN, Connection
from broker.engine.base import START_TIMEOUT, Engine
from broker.errors import (
    DBusError,
    EngineMissing,
    NoReply,
    RemoteError,
    ShuttingDown,
    SpawnExecFailed,
    SpawnFailed,
    SpawnFileInvalid,
    StartLimitHit,
    TimedOut,
)
from broker.process.spawn import file_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker.core.events import Token
    from broker.core.processes import Process
    from broker.engine.base import EngineEvents, EngineSettings
    from broker.process.spawn import Program

log = logging.getLogger(__name__)

MAX_MATCHES: Final = 1_000_000
OLDEST: Final = 30  # the first whose Name.Reset takes a reason
BUS: Final = "org.bus1.DBus."
BROKER: Final = "/org/bus1/DBus/Broker"
CONTROLLER: Final = "/org/bus1/DBus/Controller"
NAMES: Final = "/org/bus1/DBus/Name/"
LISTENER: Final = "/org/bus1/DBus/Listener/0"

# The reasons that it knows; any other ends the bus. Each gives the caller one
# fixed text, so we choose the nearest; our own text is on our interface.
_REASONS: Final[dict[type[DBusError], str]] = {
    ShuttingDown: "DestructiveTransaction",
    SpawnFileInvalid: "UnknownUnit",
    SpawnExecFailed: "InvalidUnit",
    StartLimitHit: "StartupFailure",
    TimedOut: "StartupFailure",
}
_OTHER_REASON: Final = "UnitFailure"


def reason(outcome: type[DBusError]) -> str:
    """The reason that stands for an outcome."""
    return f"{BUS}Name.Error.{_REASONS.get(outcome, _OTHER_REASON)}"


_UNLIMITED: Final = 2**64 - 1
# (verdict, priority, peer, path, interface, member, type, broadcast, min and max fds):
# empty and 0 are wildcards, and a rule of priority 0 would never win.
_ANY_MESSAGE: Final = [True, 1, "", "", "", "", 0, 0, 0, _UNLIMITED]
_RULES: Final = "a(btbs)a(btssssuutt)a(btssssuutt)"
_POLICY_30: Final = f"(a(u(bt{_RULES}))a(buu(bt{_RULES}))a(ss)b)"
_POLICY_32: Final = f"(a(u(bt{_RULES}))a(buu(bt{_RULES}))a(ss)bs)"


def policy(version: int, uid: int) -> Variant:
    """A policy that allows our own user and root everything, and admits no other user.

    Args:
        version: from 32 on the policy ends with the type of the bus, for AppArmor.
        uid: ours. A batch for a uid replaces the default one, it is not merged.
    """
    allow: list[Any] = [True, 1, [[True, 1, True, ""]], [_ANY_MESSAGE], [_ANY_MESSAGE]]
    deny: list[Any] = [False, 1, [], [], []]
    users: list[list[Any]] = [[user, allow] for user in sorted({uid, 0})]
    value: list[Any] = [[[0xFFFFFFFF, deny], *users], [], [], False]
    if version >= 32:
        return Variant(_POLICY_32, [*value, "session"])
    return Variant(_POLICY_30, value)


class _InvalidConfig(DBusError):
    """The only error that the bus accepts in answer to ReloadConfig; its text is dropped."""

    dbus_name = f"{BUS}Controller.Error.InvalidConfig"


# The bus's own descriptors: two for events, the log, ours, the listener, and some spare.
_OWN_FDS: Final = 32
_PIDFDS: Final = 34


def max_fds(version: int, limit: int, uid: int) -> int:
    """How many descriptors the bus may hold for one user; each connection is charged one.

    Up to version 37 the bus ends when its own table is full, and any client could fill
    it by opening connections. So the quota must be used up first: then the client is
    refused. From version 34 on, a connection takes two places in the table: its socket
    and a pidfd of its process.

    Args:
        version: of dbus-broker.
        limit: RLIMIT_NOFILE of the bus.
        uid: ours; root may connect as well, and gets as many.
    """
    users = 1 if uid == 0 else 2
    places = 2 if version >= _PIDFDS else 1
    return max(8, min(65536, (limit - _OWN_FDS) // users // places))


class DBusBroker(Engine):
    """dbus-broker, versions 30 and newer."""

    program = "dbus-broker"
    max_rules = MAX_MATCHES  # it finds a signal's matches without a look at the other rules

    def __init__(
        self, settings: EngineSettings, events: EngineEvents, spawn: Callable[[Program], Process]
    ) -> None:
        super().__init__(settings, events, spawn)
        self._number = 0  # its version
        self._pair: socket.socket | None = None
        self._link: Connection | None = None
        self._paths: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._count = 0
        self._reloads: set[asyncio.Task[None]] = set()

    @property
    def admits_others(self) -> bool:
        """As the first entry of the policy's first batch, the one for all users, says."""
        (_, (admits, *_)), *_ = policy(self._number, os.getuid()).value[0]
        return bool(admits)

    async def start(self, names: Collection[str]) -> None:
        """Start it, become its controller, and give it the names and the listening socket."""
        self.version = f"dbus-broker {await self._check_version()}"
        listening = self.settings.listener.bind()
        ours, theirs = socket.socketpair()
        self._pair = ours
        try:
            # The bus's identity for its clients is that of the pair's maker: us.
            self.pid = self._launch(
                [
                    self.settings.program,
                    "--controller=3",
                    f"--machine-id={self.settings.machine_id}",
                    *limits(self._number),
                ],
                {3: theirs.fileno()},
            )
        finally:
            theirs.close()
        try:
            self._link = await Connection.to_peer(ours, timeout=START_TIMEOUT)
            self._link.take_at_most(TAKEN)
            self._link.on_message = self._on_message
            self._link.on_closed = self._on_closed
            await self.set_names(names)
            await self._add_listener(listening)
        except DBusError as e:
            raise await self._failed(f"does not accept us as its controller: {e}") from e
        finally:
            if self.settings.listener.sock is None:
                listening.close()

    async def _check_version(self) -> int:
        number = int(await self._read_version(r"dbus-broker (\d+)"))
        if number < OLDEST:
            raise EngineMissing(
                f"dbus-broker {number} is too old: {OLDEST} or newer is needed "
                "(or use --engine=dbus-daemon)"
            )
        self._number = number
        return number

    async def _add_listener(self, listening: socket.socket) -> None:
        answer: asyncio.Future[Message | DBusError] = asyncio.get_running_loop().create_future()
        message = _call(
            BROKER, "Broker", "AddListener", "ohv", [LISTENER, 0, policy(self._number, os.getuid())]
        )
        serial = self._controller.send_with_fds(message, [listening.fileno()])
        self._controller.expect(serial, answer.set_result)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                reply = await answer
        except TimeoutError:
            raise NoReply(f"no answer to AddListener within {START_TIMEOUT:g} s") from None
        if isinstance(reply, DBusError):
            raise reply

    async def set_names(self, names: Collection[str]) -> None:
        """AddName and Release for the difference, all sent before the first answer."""
        wanted = set(names)
        calls = []
        for name in sorted(self._names.keys() - wanted):
            path = self._names.pop(name)
            del self._paths[path]
            calls.append(self._send(path, "Name", "Release"))
        for name in sorted(wanted - self._names.keys()):
            self._count += 1
            path = f"{NAMES}{self._count}"
            self._names[name], self._paths[path] = path, name
            # Queued messages are charged to the uid; -1 is charged to no user.
            calls.append(self._send(BROKER, "Broker", "AddName", "osu", [path, name, 0xFFFFFFFF]))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, RemoteError):
                log.error("dbus-broker refuses a name: %s", answer.name)
            elif isinstance(answer, BaseException):
                raise answer

    async def _send(
        self, path: str, interface: str, member: str, signature: str = "", body: Any = None
    ) -> list[Any]:
        message = _call(path, interface, member, signature, body or [])
        return await self._controller.call_message(message, timeout=START_TIMEOUT)

    def fail(self, name: str, token: Token, error: DBusError) -> None:
        """Send Name.Reset, which does nothing for an activation that is over."""
        path = self._names.get(name)
        if path is None:
            return  # released in the meantime, which has failed it as well
        message = _call(path, "Name", "Reset", "ts", [token, reason(type(error))])

        def on_reply(reply: Message | DBusError) -> None:
            if isinstance(reply, RemoteError):
                log.error("dbus-broker refuses the end of %s's activation: %s", name, reply.name)

        self._controller.request(message, on_reply)

    def dismiss(self, name: str, token: Token) -> None:
        """Send Name.Reset as well: the serial identifies the request."""
        self.fail(name, token, SpawnFailed(f"{name} was owned only for a moment"))

    @property
    def lifelines(self) -> list[int]:
        """Ours, and our end of the controller's connection: without it the bus ends."""
        return [*super().lifelines, *([self._pair.fileno()] if self._pair else [])]

    def stop(self) -> None:
        """Close the controller's connection, which ends the bus."""
        super().stop()
        if self._link is not None:
            self._link.on_closed = lambda: None
            self._link.close()

    @property
    def _controller(self) -> Connection:
        assert self._link is not None
        return self._link

    # -- its messages ----------------------------------------------------------

    def _on_closed(self) -> None:
        self.events.engine_gone(f"{self.version} closed its controller's connection")

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.METHOD_CALL:
            self._on_call(message)
        elif message.member == "Activate":
            name = self._paths.get(message.path)
            if name is not None:
                self.events.activation_requested(name, message.body[0])
        elif message.member == "SetActivationEnvironment":
            self.events.environment_updated(message.body[0])

    def _on_call(self, call: Message) -> None:
        if call.path != CONTROLLER or call.member != "ReloadConfig":
            # An error in return would end the bus.
            log.warning("dbus-broker calls an unknown method: %s.%s", call.interface, call.member)
            return
        task = asyncio.get_running_loop().create_task(self._reload(call))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, call: Message) -> None:
        try:
            await self.events.reload_requested()
        except DBusError as e:
            if not isinstance(e, ShuttingDown):  # at shutdown a reload is of no use
                log.error("the configuration was not reloaded: %s", e)
            self._controller.reply_error(call, _InvalidConfig())
        except Exception:
            # Else the caller would wait for ever; the loop's handler logs the fault.
            self._controller.reply_error(call, _InvalidConfig())
            raise
        else:
            self._controller.reply(call)


def limits(version: int) -> list[str]:
    """Its options for the limits; it cuts all values to 32 bits."""
    _, limit = file_limit()
    return [
        "--max-bytes=1000000000",
        f"--max-fds={max_fds(version, limit, os.getuid())}",
        f"--max-matches={MAX_MATCHES}",
    ]


def _call(path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    return Message(
        path=path, interface=BUS + interface, member=member, signature=signature, body=body
    )
