"""A connection that calls methods and waits, without an event loop.

For short-lived clients and synchronous tests; the daemon and programs that
serve objects use ``connection``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

from broker.bus import address, wire
from broker.bus.answers import Answers
from broker.bus.authentication import BEGIN, Authentication
from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.bus.frames import Splitter
from broker.errors import DBusError, Disconnected, NoReply

if TYPE_CHECKING:
    import socket
    from types import TracebackType

_UNKNOWN_METHOD: Final = "org.freedesktop.DBus.Error.UnknownMethod"
# In seconds: Python waits with poll(2), and that takes at most 24 days.
_LONGEST_WAIT: Final = 86400.0


class BlockingConnection:
    """A connection to a bus; made by ``connect``.

    Attributes:
        unique_name: the name that the bus gave us.
        patience: the timeout for sending, in seconds; None waits as long as the bus lives.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.unique_name = ""
        self.patience: float | None = None
        self._sock = sock
        self._splitter = Splitter()
        self._serial = 0
        self._answers = Answers()
        self._replies: dict[int, wire.Received | DBusError] = {}
        self._heard: set[str] = set()
        self._signals: list[wire.Received] = []  # not a deque: it would import collections

    @classmethod
    def connect(cls, where: str, timeout: float | None = None) -> Self:
        """Connect to the bus at an address.

        Args:
            timeout: in seconds, for the whole of it; None waits as long as the bus lives.

        Raises:
            InvalidArgs: ``where`` is not an address.
            Disconnected: nobody listens there, or the server is not a bus.
            NoReply: the bus does not answer in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self = cls(address.connect(where, timeout))
        try:
            self._begin(deadline)
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self, deadline: float | None) -> None:
        authentication = Authentication(pass_fds=False)
        self._write(authentication.opening, deadline)
        data = self._read(deadline)
        while (rest := authentication.feed(data)) is None:
            data = self._read(deadline)
            if not data:
                raise NoReply("no answer to the authentication in time")
        hello = self._call_bytes(DRIVER, DRIVER_PATH, DRIVER, "Hello")
        self._expect(self._serial, DRIVER)
        self._write(BEGIN + hello, deadline)
        self._feed(rest)
        if not self.arrives(self._serial, deadline):
            raise NoReply("no answer to Hello in time")
        answer = self.answer(self._serial)
        if answer.signature != "s":
            raise Disconnected("the server is not a message bus: its answer to Hello has no name")
        (self.unique_name,) = answer.body

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. May be called again."""
        self._sock.close()

    def fileno(self) -> int:
        """For ``select``; signals that were read already are in ``signal``."""
        return self._sock.fileno()

    # -- calls -----------------------------------------------------------------

    def send(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
    ) -> int:
        """Send a call and return its serial, for ``reply``.

        Raises:
            Disconnected: the bus has gone.
        """
        questions = self._follow(destination)
        call = self._call_bytes(destination, path, interface, member, signature, *arguments)
        self._expect(self._serial, destination)
        self._write(questions + call)
        return self._serial

    def _expect(self, serial: int, asked: str) -> None:
        def on_reply(found: wire.Received | DBusError) -> None:
            self._replies[serial] = found

        self._answers.expect(serial, on_reply, asked)

    def forget(self, serial: int) -> None:
        """Stop waiting for the answer to a call."""
        self._answers.forget(serial)
        self._replies.pop(serial, None)

    def reply(self, serial: int, timeout: float | None = None) -> list[Any]:
        """Wait for the results of a sent call.

        Args:
            timeout: in seconds; None waits as long as the bus lives.

        Raises:
            RemoteError: the answer is an error.
            NoReply: no answer came in time.
            Disconnected: the bus has gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.arrives(serial, deadline):
            self.forget(serial)
            raise NoReply(f"no answer within {timeout:g} s")
        return self.answer(serial).body

    def answer(self, serial: int) -> wire.Received:
        """The arrived answer to a call; raises RemoteError."""
        found = self._replies.pop(serial)
        if isinstance(found, DBusError):
            raise found
        return found

    def arrives(self, serial: int, deadline: float | None) -> bool:
        """Wait for the answer to a call; False if it does not come in time.

        Args:
            deadline: on the monotonic clock, in seconds; None waits as long as the bus lives.

        Raises:
            Disconnected: the bus has gone.
        """
        while serial not in self._replies:
            # Other messages must not extend the wait.
            late = not self.wait(deadline) or _is_over(deadline)
            if late and serial not in self._replies:
                return False
        return True

    def answered(self, serial: int) -> bool:
        """Whether ``reply`` would return at once, as far as has been read."""
        return serial in self._replies

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        timeout: float | None = None,
    ) -> list[Any]:
        """Call a method; raises as ``send`` and ``reply``."""
        serial = self.send(destination, path, interface, member, signature, *arguments)
        return self.reply(serial, timeout)

    def call_bus(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call a method of the bus itself."""
        return self.call(DRIVER, DRIVER_PATH, DRIVER, member, signature, *arguments)

    def _call_bytes(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
    ) -> bytes:
        self._serial += 1
        return wire.encode(
            wire.CALL,
            self._serial,
            signature,
            arguments,
            path=path,
            interface=interface,
            member=member,
            destination=destination,
        )

    # -- signals ---------------------------------------------------------------

    def hear(self, name: str) -> None:
        """Have ``signal`` return the signals of a name's owner, too.

        The caller must add the match rules. Without this call, ``signal`` returns only the
        bus's own signals: any client may send us one.
        """
        self._heard.add(name)
        self._write(self._follow(name))

    def owner(self, name: str) -> str:
        """The owner of a name that was called or is heard, as of the last message read."""
        return self._answers.owner(name)

    def _follow(self, name: str) -> bytes:
        """The calls that make the bus report each owner of a name."""
        questions = b""
        for member, argument, on_answer in self._answers.follow(name):
            questions += self._call_bytes(DRIVER, DRIVER_PATH, DRIVER, member, "s", argument)
            self._answers.expect(self._serial, on_answer, DRIVER)
        return questions

    def signal(self, deadline: float | None) -> wire.Received | None:
        """The next signal, in the order of arrival.

        Args:
            deadline: on the monotonic clock, in seconds; None waits as long as the bus lives.

        Returns:
            None if none came in time.

        Raises:
            Disconnected: the bus has gone.
        """
        while not self._signals:
            late = not self.wait(deadline) or _is_over(deadline)
            if late and not self._signals:
                return None
        return self._signals.pop(0)

    # -- the socket ------------------------------------------------------------

    def _write(self, data: bytes, deadline: float | None = None) -> None:
        if deadline is None and self.patience is not None:
            deadline = time.monotonic() + self.patience
        self._set_timeout(deadline)
        try:
            self._sock.sendall(data)
        except TimeoutError as e:
            self.close()  # half a message may be on its way
            raise NoReply("the bus does not read our messages") from e
        except OSError as e:
            raise Disconnected(f"the connection has ended: {e.strerror}") from e

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is None:
            self._sock.settimeout(None)
        else:
            # A timeout of 0 makes a socket non-blocking, with another exception.
            left = max(deadline - time.monotonic(), 1e-6)
            self._sock.settimeout(min(left, _LONGEST_WAIT))

    def _read(self, deadline: float | None) -> bytes:
        while True:
            self._set_timeout(deadline)
            try:
                data = self._sock.recv(1 << 16)
            except TimeoutError:
                if _is_over(deadline):
                    return b""
            except OSError as e:
                raise Disconnected(f"the connection has ended: {e.strerror}") from e
            else:
                if not data:
                    raise Disconnected("the connection has ended: closed")
                return data

    def wait(self, deadline: float | None) -> bool:
        """Read messages for ``reply`` and ``signal``; False if none came in time.

        Raises:
            Disconnected: the bus has gone.
        """
        data = self._read(deadline)
        self._feed(data)
        return bool(data)

    def _feed(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            message = wire.decode(frame)
            if message.kind in (wire.RETURN, wire.ERROR):
                self._answers.take(message)
            elif message.kind == wire.SIGNAL:
                self._answers.hear(message)
                if self._is_heard(message):
                    self._signals.append(message)
            elif message.kind == wire.CALL and not message.flags & wire.NO_REPLY_EXPECTED:
                self._refuse(message)

    def _is_heard(self, signal: wire.Received) -> bool:
        """Whether a signal is the bus's (a peer gives no sender), or a heard owner's."""
        owners = [self._answers.owner(name) for name in self._heard]
        return signal.sender in ("", DRIVER, *owners)

    def _refuse(self, call: wire.Received) -> None:
        """We serve no objects: spare the caller the timeout."""
        self._serial += 1
        error = wire.encode(
            wire.ERROR,
            self._serial,
            "s",
            ("this connection serves no objects",),
            error_name=_UNKNOWN_METHOD,
            reply_serial=call.serial,
            destination=call.sender,
        )
        self._write(error)


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
