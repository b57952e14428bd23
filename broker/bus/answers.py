"""Matches answers to calls, and checks their senders: for both connections.

Match rules do not authenticate a message: unicast signals bypass them, and
dbus-daemon forwards anyone's answer to anyone. The sender can be trusted, since the bus
writes it into the message. So a connection tracks the owner of each well-known
name that it calls or listens to, and accepts messages of those owners alone.

This module does no I/O. Messages are those of ``codec`` or of ``wire``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.errors import DBusError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANGED: Final = "NameOwnerChanged"


class _Pending:
    """A call without an answer; ``senders`` may answer it, or everyone if it is None."""

    def __init__(
        self, asked: str, on_reply: Callable[[Any], None], senders: set[str] | None
    ) -> None:
        self.asked = asked
        self.on_reply = on_reply
        self.senders = senders


class Answers:
    """The pending calls of one connection; each gets one answer, or an error in its place."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        # Followed name to its owner, by the bus's last word.
        self._owners: dict[str, str] = {}

    def __len__(self) -> int:
        """The number of pending calls."""
        return len(self._pending)

    # -- answers ---------------------------------------------------------------

    def expect(self, serial: int, on_reply: Callable[[Any], None], asked: str) -> None:
        """Pass the answer to a call, or the DBusError in its place, to ``on_reply``.

        Args:
            asked: the call's destination; empty for a peer.
        """
        senders: set[str] | None = None
        if asked == DRIVER or asked.startswith(":"):
            senders = {asked}
        elif asked in self._owners:
            senders = {self._owners[asked]}
        self._pending[serial] = _Pending(asked, on_reply, senders)

    def forget(self, serial: int) -> None:
        """Stop waiting for an answer."""
        self._pending.pop(serial, None)

    def take(self, answer: Any) -> None:
        """Pass an answer to its caller, if its sender may give it."""
        pending = self._pending.get(answer.reply_serial)
        if pending is None:
            return
        # The bus itself answers for a name without an owner. A peer gives no sender.
        trusted = not answer.sender or answer.sender == DRIVER or pending.senders is None
        if not trusted and answer.sender not in (pending.senders or ()):
            return
        del self._pending[answer.reply_serial]
        pending.on_reply(_as_outcome(answer) if answer.error_name else answer)

    def give_up(self, reason: DBusError) -> None:
        """No more answers will come: give every pending call the reason."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.on_reply(reason)

    # -- owners ----------------------------------------------------------------

    def follow(self, name: str) -> list[tuple[str, str, Callable[[Any], None]]]:
        """Follow the owner of a name from now on.

        Returns:
            the calls to the bus that must precede a call of the name: method, argument, and
            a function for the answer. None if they were made, or the name cannot change owners.
        """
        if not name or name in self._owners or name == DRIVER or name.startswith(":"):
            return []
        self._owners[name] = ""

        def on_match(answer: Any) -> None:
            # The bus keeps no more rules for us: the name's owners stay unknown.
            if isinstance(answer, RemoteError):
                self._unfollow(name)

        def on_owner(answer: Any) -> None:
            if not isinstance(answer, DBusError):
                self._note(name, answer.body[0])

        rule = (
            f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='{_CHANGED}',"
            f"path='{DRIVER_PATH}',arg0='{name}'"
        )
        # In this order: a change between the two is signalled, and is in the answer.
        return [("AddMatch", rule, on_match), ("GetNameOwner", name, on_owner)]

    def owner(self, name: str) -> str:
        """The owner of a followed name, as of the last message read; empty for none."""
        return self._owners.get(name, "")

    def hear(self, signal: Any) -> None:
        """Update owners from a signal; to be called before anything else handles it."""
        if self._owners and signal.member == _CHANGED and signal.sender == DRIVER:
            name, _, owner = signal.body
            if name in self._owners:
                self._note(name, owner)

    def _note(self, name: str, owner: str) -> None:
        self._owners[name] = owner
        for each in self._pending.values():
            # Any owner since the call may have got it; those before the call did not.
            if each.asked == name and each.senders is not None:
                each.senders.add(owner)

    def _unfollow(self, name: str) -> None:
        self._owners.pop(name, None)
        for each in self._pending.values():
            if each.asked == name:
                each.senders = None


def _as_outcome(message: Any) -> RemoteError:
    text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
    return RemoteError(message.error_name, text, message.sender or "")
