"""What the clients of a soak do, at random and again and again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final

from broker.bus import address
from broker.bus.codec import Message, MessageType, encode
from broker.errors import Disconnected, RemoteError
from tests.aio_client import BUS_NAME, MANAGER, ROOT, Client
from tests.integration.buses import TEST

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from random import Random

    from tests.soak.attacks import Attacks
    from tests.soak.record import Record
    from tests.soak.services import Services

DRIVER: Final = "org.freedesktop.DBus"
DO_NOT_QUEUE: Final = 4
FLOOD: Final = 300
# Answers that a deaf client leaves with the bus; it must be able to write them all at once.
DEAF: Final = 100


class Actor:
    """One client, which does one thing after the other."""

    def __init__(
        self,
        where: str,
        client: Client,
        services: Services,
        record: Record,
        chance: Random,
        attacks: Attacks,
    ) -> None:
        self._where = where
        self._attacks = attacks
        self._client = client
        self._services = services
        self._record = record
        self._chance = chance
        self._deaf: socket.socket | None = None
        self._stranger: Client | None = None

    async def act(self) -> None:
        """Do one thing, whatever comes of it."""
        weights = {
            action: weight
            for action, weight in _WEIGHTS.items()
            if self._attacks.floods or action not in _FLOODS
        }
        (action,) = self._chance.choices(list(weights), list(weights.values()))
        await action(self)

    async def close(self) -> None:
        """Leave the bus, except for the client, which has another owner."""
        self._hang_up()
        await self._send_away()

    def _hang_up(self) -> None:
        if self._deaf is not None:
            self._deaf.close()
            self._deaf = None

    # -- starting --------------------------------------------------------------

    async def call(self) -> None:
        """A plain call, which activates."""
        await self._service("call", self._services.any(self._chance), "Echo", "s", "hello")

    async def call_good(self) -> None:
        """The same, to one that can be started."""
        await self._service("call", self._services.good(self._chance), "Echo", "s", "hello")

    async def start(self) -> None:
        """An activation through the broker's own interface."""
        await self._manager("StartService", "s", self._services.any(self._chance))

    async def start_by_name(self) -> None:
        """An activation through the bus's own method."""
        name = self._services.any(self._chance)
        async with self._record.action("StartServiceByName", name):
            await self._client.bus.call_bus("StartServiceByName", "su", [name, 0], timeout=None)

    async def start_many(self) -> None:
        """All the good ones at once."""
        names = {self._services.good(self._chance) for _ in range(8)}
        await asyncio.gather(*(self._service("call", name, "Echo", "s", "hello") for name in names))

    async def fresh(self) -> None:
        """A name that is new, runs once, and is never seen again."""
        name = self._services.fresh()
        await self._manager("Reload")
        await self._service("call", name, "Echo", "s", "hello")
        self._services.remove(name)
        await self._manager("Reload")
        await self._manager("StopService", "s", name)

    # -- ending ----------------------------------------------------------------

    async def exit(self) -> None:
        """A service that exits, also one that was started for it."""
        status = self._chance.choice((0, 0, 1, 255))
        await self._service("Exit", self._services.good(self._chance), "Exit", "i", status)

    async def crash(self) -> None:
        """A service that is ended by a signal."""
        number = self._chance.choice((signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM))
        await self._service("Raise", self._services.good(self._chance), "Raise", "i", int(number))

    async def release(self) -> None:
        """A service that gives its name up and stays."""
        await self._service("Release", self._services.good(self._chance), "Release")

    async def kill(self) -> None:
        """A signal from the broker."""
        whom = self._chance.choice(("main", "all"))
        number = self._chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV))
        name = self._services.any(self._chance)
        await self._manager("KillService", "ssi", name, whom, int(number))

    async def stop(self) -> None:
        """A stop; a stubborn one takes a while."""
        await self._manager("StopService", "s", self._services.any(self._chance))

    async def start_and_stop(self) -> None:
        """A stop in the middle of an activation."""
        name = self._services.any(self._chance)
        await asyncio.gather(
            self._service("call", name, "Echo", "s", "hello"),
            self._manager("StopService", "s", name),
        )

    async def reset(self) -> None:
        """Forget failures, so that the start limit does not end the fun."""
        name = self._chance.choice(("", "", self._services.any(self._chance)))
        await self._manager("ResetFailed", "s", name)

    # -- changing --------------------------------------------------------------

    async def reload(self) -> None:
        """Descriptors that came, went, or changed."""
        for _ in range(self._chance.randrange(4)):
            self._services.mutate(self._chance)
        if self._chance.random() < 0.5:
            await self._manager("Reload")
        else:
            async with self._record.action("ReloadConfig"):
                await self._client.bus.call_bus("ReloadConfig", timeout=None)

    async def environment(self) -> None:
        """The activation environment, in all ways that there are."""
        name = f"SOAK_{self._chance.randrange(8)}"
        async with self._record.action("UpdateActivationEnvironment"):
            await self._client.bus.call_bus(
                "UpdateActivationEnvironment", "a{ss}", [{name: "x"}], timeout=None
            )
        await self._manager("SetEnvironment", "as", [f"{name}=y"])
        await self._manager("UnsetEnvironment", "as", [name])

    async def own(self) -> None:
        """A stranger takes an activatable name, is called, and stays or goes."""
        name = self._services.any(self._chance)
        await self._send_away()
        async with self._record.action("own", name):
            self._stranger = await Client.connect(self._where)
            await self._stranger.bus.call_bus(
                "RequestName", "su", [name, DO_NOT_QUEUE], timeout=None
            )
            with contextlib.suppress(RemoteError):
                await self._client.bus.call(name, "/", TEST, "Echo", "s", ["hello"], timeout=None)
            if self._chance.random() < 0.3:
                await self._stranger.bus.call_bus("ReleaseName", "s", [name], timeout=None)
        if self._chance.random() < 0.3:
            await self._send_away()

    async def usurp(self) -> None:
        """A stranger takes a name while its descriptor is away."""
        name = self._chance.choice(self._services.passing)
        self._services.add(name)
        await self._manager("Reload")
        await self._service("call", name, "Echo", "s", "hello")
        self._services.remove(name)
        await self._manager("Reload")
        await self._manager("StopService", "s", name)
        await self._send_away()
        async with self._record.action("own", name):
            self._stranger = await Client.connect(self._where)
            await self._stranger.bus.call_bus(
                "RequestName", "su", [name, DO_NOT_QUEUE], timeout=None
            )
        self._services.add(name)
        await self._manager("Reload")

    async def _send_away(self) -> None:
        if self._stranger is not None:
            self._stranger.bus.close()
            await self._stranger.bus.wait_closed()
            self._stranger = None

    # -- clients that are a burden ---------------------------------------------

    async def flood(self) -> None:
        """Hundreds of calls before the first answer."""
        name = self._services.good(self._chance)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: self._client.call("ListServices"),
            lambda: self._client.call("GetServiceByPID", "u", 1),
            lambda: self._client.bus.call(name, "/", TEST, "Echo", "s", ["hello"], timeout=None),
        ]
        call = self._chance.choice(calls)
        async with self._record.action("flood"):
            await asyncio.gather(*(call() for _ in range(FLOOD)), return_exceptions=True)

    async def forge(self) -> None:
        """The broker's own signals, and answers to the calls of all, from another client."""
        async with self._record.action("forge"), await Client.connect(self._where) as forger:
            (names,) = await forger.bus.call_bus("ListNames", timeout=None)
            serial = self._chance.randrange(1, 1000)
            for name in names:
                if name.startswith(":") and name != forger.bus.unique_name:
                    for each in (_forged_exit(name), _forged_answer(name, serial)):
                        forger.bus.send(each)
            await forger.bus.call_bus("GetId", timeout=None)

    async def leave(self) -> None:
        """Calls whose caller is gone before the answer."""
        async with self._record.action("leave"), await Client.connect(self._where) as leaver:
            for _ in range(self._chance.randrange(1, 50)):
                name = self._services.any(self._chance)
                leaver.bus.send(_echo(name))
                leaver.bus.send(_manager_call("StartService", name))
                leaver.bus.send(_manager_call("StopService", name))
            # The bus has taken them when it has answered this.
            with contextlib.suppress(Disconnected):
                await leaver.bus.call_bus("GetId", timeout=None)

    async def be_deaf(self) -> None:
        """A client that asks, listens to everything, and never reads; the one before leaves."""
        self._hang_up()
        async with self._record.action("be deaf"):
            self._deaf = address.connect(self._where)
            calls = [
                _driver_call("Hello"),
                _driver_call("AddMatch", f"type='signal',sender='{BUS_NAME}'"),
                *(_manager_call("GetService", self._services.names[0]) for _ in range(DEAF)),
            ]
            for serial, each in enumerate(calls, 1):
                each.serial = serial
            await asyncio.to_thread(
                self._deaf.sendall,
                b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + b"".join(map(encode, calls)),
            )

    async def flip(self) -> None:
        """Of a service's name, or of one that is nobody's."""
        name = self._chance.choice((self._services.any(self._chance), f"{TEST}.Nobody"))
        async with self._record.action("flip", name):
            await self._attacks.flip(name)

    async def ping(self) -> None:
        """Calls that want no answer."""
        async with self._record.action("ping"):
            await self._attacks.ping()

    async def pause(self) -> None:
        """The broker stands still."""
        async with self._record.action("pause"):
            await self._attacks.pause(self._client.bus)

    # -- looking ---------------------------------------------------------------

    async def look(self) -> None:
        """What a monitoring tool asks."""
        name = self._services.any(self._chance)
        questions: list[tuple[str, str, list[Any]]] = [
            ("ListServices", "", []),
            ("GetService", "s", [name]),
            ("GetProcess", "u", [self._chance.randrange(1, 32768)]),
            ("GetServiceByPID", "u", [self._chance.randrange(1, 32768)]),
        ]
        member, signature, arguments = self._chance.choice(questions)
        await self._manager(member, signature, *arguments)

    async def introspect(self) -> None:
        """The objects' description, and all of them at once."""
        async with self._record.action("Introspect"):
            await self._client.bus.call(
                BUS_NAME,
                ROOT + self._chance.choice(("", "/service", "/process")),
                "org.freedesktop.DBus.Introspectable",
                "Introspect",
                timeout=None,
            )
        async with self._record.action("GetManagedObjects"):
            await self._client.snapshot()

    async def tool(self) -> None:
        """A client that is not ours."""
        name = self._services.good(self._chance)
        bus = f"--address={self._where}"
        gdbus = f"--dest={name}", "--object-path=/", f"--method={TEST}.Echo"
        argv = self._chance.choice(
            [
                ("busctl", bus, "call", name, "/", TEST, "Echo", "s", "hello"),
                ("busctl", bus, "list"),
                ("busctl", bus, "introspect", BUS_NAME, ROOT),
                ("gdbus", "call", bus, *gdbus, "hello"),
                ("gdbus", "introspect", bus, f"--dest={BUS_NAME}", f"--object-path={ROOT}"),
            ]
        )
        async with self._record.action(argv[0], " ".join(argv)):
            quiet = asyncio.subprocess.DEVNULL
            process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet)
            try:
                await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise

    async def _manager(self, member: str, signature: str = "", *arguments: Any) -> None:
        about = " ".join(map(str, arguments))
        async with self._record.action(member, about):
            await self._client.call(member, signature, *arguments)

    async def _service(
        self, action: str, name: str, member: str, signature: str = "", *arguments: Any
    ) -> None:
        async with self._record.action(action, name):
            await self._client.bus.call(
                name, "/", TEST, member, signature, list(arguments), timeout=None
            )


# Mostly starts and ends; the expensive ones now and then.
_WEIGHTS: Final[dict[Callable[[Actor], Awaitable[None]], float]] = {
    Actor.call: 20,
    Actor.call_good: 30,
    Actor.start: 15,
    Actor.start_by_name: 5,
    Actor.start_many: 3,
    Actor.fresh: 3,
    Actor.exit: 10,
    Actor.crash: 10,
    Actor.release: 5,
    Actor.kill: 10,
    Actor.stop: 10,
    Actor.start_and_stop: 5,
    Actor.reset: 10,
    Actor.reload: 5,
    Actor.environment: 3,
    Actor.own: 8,
    Actor.usurp: 2,
    Actor.flood: 1,
    Actor.forge: 2,
    Actor.leave: 2,
    Actor.be_deaf: 1,
    Actor.flip: 0.3,
    Actor.ping: 0.3,
    Actor.pause: 0.1,
    Actor.look: 10,
    Actor.introspect: 2,
    Actor.tool: 2,
}


_FLOODS: Final = {Actor.flip, Actor.ping}


def _echo(name: str) -> Message:
    return Message(name, "/", TEST, "Echo", signature="s", body=["hello"])


def _forged_exit(to: str) -> Message:
    about = (to, ROOT, MANAGER, "ProcessExited", MessageType.SIGNAL)
    return Message(*about, signature="osuiia{sv}", body=["/x", f"{TEST}.Forged", 1, 1, 1, {}])


def _forged_answer(to: str, serial: int) -> Message:
    kind = MessageType.METHOD_RETURN
    return Message(to, message_type=kind, reply_serial=serial, signature="s", body=["forged"])


def _manager_call(member: str, name: str) -> Message:
    return Message(BUS_NAME, ROOT, MANAGER, member, signature="s", body=[name])


def _driver_call(member: str, *body: str) -> Message:
    signature = "s" * len(body)
    return Message(
        DRIVER, "/org/freedesktop/DBus", DRIVER, member, signature=signature, body=list(body)
    )
