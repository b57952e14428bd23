"""Who waits for the answer to which call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.bus.codec import Message, MessageType
from broker.bus.driver import DRIVER
from broker.errors import Outcome, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable


class Answers:
    """Those that one connection waits for; each is given once, or given up."""

    def __init__(self) -> None:
        # By serial: whom we asked (empty for a peer), and what takes the answer.
        self._pending: dict[int, tuple[str, Callable[[Message | Outcome], None]]] = {}

    def __len__(self) -> int:
        """How many are waited for."""
        return len(self._pending)

    def expect(
        self, serial: int, on_reply: Callable[[Message | Outcome], None], asked: str
    ) -> None:
        """Have the answer to a call given to ``on_reply``; ``asked`` is its destination."""
        self._pending[serial] = (asked, on_reply)

    def forget(self, serial: int) -> None:
        """Wait no longer for one."""
        self._pending.pop(serial, None)

    def take(self, answer: Message) -> None:
        """Give an answer to who waits for it, if it is from who was asked."""
        asked, on_reply = self._pending.get(answer.reply_serial, ("", None))
        if on_reply is None:
            return
        # dbus-daemon lets anyone answer anyone, and serials can be guessed. Who owns a
        # well-known name that was asked, only the bus knows.
        known = asked == DRIVER or asked.startswith(":")
        if known and answer.sender not in (None, DRIVER, asked):
            return
        del self._pending[answer.reply_serial]
        on_reply(_as_outcome(answer) if answer.message_type is MessageType.ERROR else answer)

    def give_up(self, reason: Outcome) -> None:
        """There will be none: everyone who waits is told why."""
        pending, self._pending = self._pending, {}
        for _, on_reply in pending.values():
            on_reply(reason)


def _as_outcome(message: Message) -> RemoteError:
    text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
    return RemoteError(message.error_name, text, message.sender or "")
