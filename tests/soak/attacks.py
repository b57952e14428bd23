"""What hostile clients, and a debugger, do to everybody at once."""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import TYPE_CHECKING, Any, Final

from broker.bus.codec import Message, MessageFlag, MessageType
from broker.client import BUS_NAME, MANAGER, ROOT
from tests.integration.buses import flooding

if TYPE_CHECKING:
    from random import Random

    from broker.bus.connection import Connection
    from tests.integration.buses import Bus

# In seconds. A pause is longer than an activation may take, see soak.OPTIONS.
PAUSE: Final = 2.5
FLOOD: Final = 0.3
SERIALS: Final = 200


class Attacks:
    """At most one of them at a time: each is felt by all clients."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._one = asyncio.Lock()

    async def flip(self, bus: Connection, name: str) -> None:
        """Take a name and give it up, tens of thousands of times a second."""
        async with self._one:
            with flooding(self._bus, "flip", name):
                await _pass_time(bus, FLOOD)

    async def ping(self, bus: Connection) -> None:
        """Call the broker and want no answer, as often."""
        async with self._one:
            with flooding(self._bus, "ping", BUS_NAME):
                await _pass_time(bus, FLOOD / 10)

    async def pause(self, bus: Connection) -> None:
        """Stop the broker over a deadline of every activation that is under way."""
        async with self._one:
            self._bus.kill(signal.SIGSTOP)
            try:
                await _pass_time(bus, PAUSE)
            finally:
                self._bus.kill(signal.SIGCONT)

    async def forge(self, bus: Connection, chance: Random, name: str) -> None:
        """Send everybody signals and answers that look like the broker's."""
        (names,) = await bus.call_bus("ListNames", timeout=None)
        path = f"{ROOT}/process/{chance.randrange(1, 1000)}"
        exited: list[Any] = [path, name, chance.randrange(2, 30000), 1, 3, {}]
        shapes: list[tuple[str, str, list[Any]]] = [
            ("ProcessExited", "osuiia{sv}", exited),
            ("ProcessExited", "s", ["x"]),
            ("ActivationFailed", "sssa{sv}", [name, "org.x.Y", "forged", {}]),
            ("LogAppended", "", []),
        ]
        with bus.corked():
            for target in names:
                if not target.startswith(":"):
                    continue
                for member, signature, body in shapes:
                    bus.send(_signal(target, member, signature, body))
                for serial in itertools.islice(itertools.count(chance.randrange(1000)), SERIALS):
                    bus.send(_answer(target, serial + 1))
        await bus.call_bus("GetId", timeout=None)


async def _pass_time(bus: Connection, seconds: float) -> None:
    """With a client that talks to the bus."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await bus.call_bus("GetId", timeout=None)


def _signal(target: str, member: str, signature: str, body: list[Any]) -> Message:
    return Message(
        message_type=MessageType.SIGNAL,
        flags=MessageFlag.NO_REPLY_EXPECTED,
        destination=target,
        path=ROOT,
        interface=MANAGER,
        member=member,
        signature=signature,
        body=body,
    )


def _answer(target: str, serial: int) -> Message:
    return Message(
        message_type=MessageType.METHOD_RETURN,
        flags=MessageFlag.NO_REPLY_EXPECTED,
        destination=target,
        reply_serial=serial,
        signature="s",
        body=["forged"],
    )
