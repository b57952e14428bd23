"""Who may answer which call, and who owns the names that are called: for both connections.

Matching rules do not say whose a message is: unicast signals pass them unasked, and
dbus-daemon passes on anyone's answer to anyone. The sender can be trusted, since the bus
writes it into the message. So a connection has the bus tell of each owner of a well-known
name that it calls or listens to, and believes those alone.

Nothing is sent or read here. Messages are those of ``codec`` or of ``wire``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.errors import DBusError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANGED: Final = "NameOwnerChanged"


class _Pending:
    """A call without an answer; ``senders`` may give it, or everyone if it is None."""

    def __init__(
        self, asked: str, on_reply: Callable[[Any], None], senders: set[str] | None
    ) -> None:
        self.asked = asked
        self.on_reply = on_reply
        self.senders = senders


class Answers:
    """The calls of one connection that wait for an answer; each is given once, or given up."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        # Of the names that are followed: who owns them, as the bus said last.
        self._owners: dict[str, str] = {}

    def __len__(self) -> int:
        """How many are waited for."""
        return len(self._pending)

    # -- answers ---------------------------------------------------------------

    def expect(self, serial: int, on_reply: Callable[[Any], None], asked: str) -> None:
        """Have the answer to a call, or the DBusError in its place, given to ``on_reply``.

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
        """Wait no longer for one."""
        self._pending.pop(serial, None)

    def take(self, answer: Any) -> None:
        """Give an answer to who waits for it, if it is from who was asked."""
        pending = self._pending.get(answer.reply_serial)
        if pending is None:
            return
        # The bus itself answers for a name without an owner. A peer says no sender.
        trusted = not answer.sender or answer.sender == DRIVER or pending.senders is None
        if not trusted and answer.sender not in (pending.senders or ()):
            return
        del self._pending[answer.reply_serial]
        pending.on_reply(_as_outcome(answer) if answer.error_name else answer)

    def give_up(self, reason: DBusError) -> None:
        """There will be none: everyone who waits is told why."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.on_reply(reason)

    # -- owners ----------------------------------------------------------------

    def follow(self, name: str) -> list[tuple[str, str, Callable[[Any], None]]]:
        """Follow the owner of a name from now on.

        Returns:
            what the bus must be asked before the name is called: a method, its argument, and
            what takes the answer. Nothing, if it has been asked or the name cannot change hands.
        """
        if not name or name in self._owners or name == DRIVER or name.startswith(":"):
            return []
        self._owners[name] = ""

        def on_match(answer: Any) -> None:
            # The bus keeps no more rules for us: the name's owners cannot be known.
            if isinstance(answer, RemoteError):
                self._unfollow(name)

        def on_owner(answer: Any) -> None:
            if not isinstance(answer, DBusError):
                self._note(name, answer.body[0])

        rule = (
            f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='{_CHANGED}',"
            f"path='{DRIVER_PATH}',arg0='{name}'"
        )
        # In this order: a change between the two is told, and is in the answer.
        return [("AddMatch", rule, on_match), ("GetNameOwner", name, on_owner)]

    def owner(self, name: str) -> str:
        """Who owns a name that is followed, by what has been read; empty for nobody."""
        return self._owners.get(name, "")

    def hear(self, signal: Any) -> None:
        """Take a signal, which may tell of a new owner; before it is given to anybody."""
        if self._owners and signal.member == _CHANGED and signal.sender == DRIVER:
            name, _, owner = signal.body
            if name in self._owners:
                self._note(name, owner)

    def _note(self, name: str, owner: str) -> None:
        self._owners[name] = owner
        for each in self._pending.values():
            # Which of its owners got the call is not said; those before the call did not.
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
