"""Method calls on a connection: outgoing ones with their answers, and replies to incoming ones."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, cast

from broker.bus.answers import Answers
from broker.bus.codec import Message, MessageFlag, of_bus
from broker.core.printable import bounded
from broker.errors import DBusError, Disconnected, NoReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

# libdbus's and sd-bus's default.
CALL_TIMEOUT: Final = 25.0


class Calls(ABC):
    """The calls of a connection, independent of its transport.

    Attributes:
        unique_name: the name that the bus gave us; empty towards a peer.
    """

    def __init__(self) -> None:
        self.unique_name = ""
        self._answers = Answers()

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the connection has ended, or is about to."""

    @abstractmethod
    def send(self, message: Message) -> int:
        """Queue a message and return its serial; dropped if the connection has ended."""

    @abstractmethod
    def corked(self) -> AbstractContextManager[None]:
        """Messages sent within this context leave at its end, in one system call."""

    def expect(
        self, serial: int, on_reply: Callable[[Message | DBusError], None], asked: str | None = None
    ) -> None:
        """Pass the answer to a call that was sent already to ``on_reply``.

        Args:
            asked: the call's destination; towards a peer there is none.
        """
        if self.closed:
            on_reply(Disconnected("the connection has ended"))
        else:
            self._answers.expect(serial, on_reply, asked or "")

    def request(self, message: Message, on_reply: Callable[[Message | DBusError], None]) -> int:
        """Send a call; ``on_reply`` is called in the order in which answers arrive.

        That order matters: all earlier messages of the bus have been handled when the
        answer is. A task woken by a future cannot guarantee that.

        Returns:
            the serial, for ``forget``.
        """
        if self.unique_name and message.destination:
            self.follow(message.destination)
        serial = self.send(message)
        self.expect(serial, on_reply, message.destination)
        return serial

    def follow(self, name: str) -> None:
        """Track the owner of a name, for ``owner`` and for the check of answers."""
        for member, argument, on_answer in self._answers.follow(name):
            self.request(of_bus(member, "s", [argument]), on_answer)

    def owner(self, name: str) -> str:
        """The owner of a followed name, as of the last message read; empty for none."""
        return self._answers.owner(name)

    def forget(self, serial: int) -> None:
        """Stop waiting for the answer to a request."""
        self._answers.forget(serial)

    async def call(
        self,
        destination: str | None,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,  # noqa: ASYNC109 - the bus's word for it
        auto_start: bool = True,
    ) -> list[Any]:
        """Call a method and return the arguments of its answer.

        Args:
            timeout: in seconds; None waits as long as the connection lives.
            auto_start: whether the bus may activate the destination.

        Raises:
            RemoteError: the answer is an error.
            NoReply: none came in time.
            Disconnected: the connection ended first.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
            flags=MessageFlag.NONE if auto_start else MessageFlag.NO_AUTOSTART,
        )
        return await self.call_message(message, timeout=timeout)

    async def call_message(self, message: Message, *, timeout: float | None) -> list[Any]:  # noqa: ASYNC109
        """Like ``call``, with the caller's own message."""
        answer: asyncio.Future[Message | DBusError] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Message | DBusError) -> None:
            if not answer.done():
                answer.set_result(reply)

        serial = self.request(message, on_reply)
        try:
            if not await within(timeout, answer):
                raise NoReply(f"no answer to {message.member} within {timeout:g} s")
        finally:
            self.forget(serial)
        reply = answer.result()
        if isinstance(reply, DBusError):
            raise reply
        return cast("list[Any]", reply.body)

    async def call_bus(
        self,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,  # noqa: ASYNC109
    ) -> list[Any]:
        """Call a method of the bus itself (``org.freedesktop.DBus``)."""
        return await self.call_message(of_bus(member, signature, body or []), timeout=timeout)

    async def call_bus_each(
        self, member: str, arguments: Iterable[str]
    ) -> list[Message | DBusError]:
        """Call a method of the bus with each argument, all before the first answer.

        Returns:
            the answers, in the arguments' order; for a connection that ends, Disconnected.

        Raises:
            NoReply: not all came in time.
        """
        answers: list[Message | DBusError] = []
        calls = [of_bus(member, "s", [each]) for each in arguments]
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Message | DBusError) -> None:
            answers.append(reply)
            if len(answers) == len(calls) and not complete.done():
                complete.set_result(None)

        with self.corked():
            serials = [self.request(each, on_reply) for each in calls]
        try:
            if calls and not await within(CALL_TIMEOUT, complete):
                raise NoReply(f"no answer to {member} within {CALL_TIMEOUT:g} s")
        finally:
            for serial in serials:
                self.forget(serial)
        return answers

    def reply(self, call: Message, signature: str = "", body: list[Any] | None = None) -> None:
        """Answer a call, unless its sender wants no answer."""
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self.send(Message.new_method_return(call, signature, body or []))

    def reply_error(self, call: Message, error: DBusError) -> None:
        """Answer a call with an error, unless its sender wants no answer."""
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            # The text may quote the caller's own input.
            self.send(Message.new_error(call, error.dbus_name, bounded(str(error))))

    async def sync(self) -> None:
        """A round trip: return when the peer has taken, and answered, all earlier messages."""
        await self.call_bus("GetId")


async def within(seconds: float | None, future: asyncio.Future[Any]) -> bool:
    """Wait for a future; whether it was done in time.

    Rejected: asyncio.timeout. It drops an answer that is there at the deadline, and that
    happens whenever this process stood still for longer than the timeout.
    """
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
