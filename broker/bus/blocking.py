"""A connection that calls methods and waits, without an event loop.

For programs that ask and end, and for synchronous tests; the daemon and what
serves objects have ``connection``. It says Hello in one piece with the
authentication: a call is answered after two trips to the bus.
"""

from __future__ import annotations

import time

from broker.bus import address, wire
from broker.bus.authentication import Authentication
from broker.bus.frames import Splitter
from broker.errors import Disconnected, NoReply, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from types import TracebackType
    from typing import Any, Final, Self

DRIVER: Final = "org.freedesktop.DBus"
_UNKNOWN_METHOD: Final = "org.freedesktop.DBus.Error.UnknownMethod"


class BlockingConnection:
    """A connection to a bus; made by ``connect``.

    Attributes:
        unique_name: the name that the bus gave us.
    """

    def __init__(self, sock: _socket.socket) -> None:
        self.unique_name = ""
        self._sock = sock
        self._splitter = Splitter()
        self._serial = 0
        self._replies: dict[int, wire.Received] = {}
        self._signals: list[wire.Received] = []  # a deque would have collections imported

    @classmethod
    def connect(cls, where: str) -> Self:
        """Connect to the bus at an address.

        Raises:
            InvalidArgs: it is no address.
            Disconnected: nobody listens there, or it is no bus.
        """
        self = cls(address.connect_bare(where))
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        hello = self._call_bytes(DRIVER, "/org/freedesktop/DBus", DRIVER, "Hello")
        authentication = Authentication(pass_fds=False)
        self._write(authentication.opening + hello)
        while (rest := authentication.feed(self._read(None))) is None:
            pass
        self._feed(rest)
        (self.unique_name,) = self.reply(self._serial)

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
        """For ``select``; what has been read already is in ``signal``."""
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
        self._write(self._call_bytes(destination, path, interface, member, signature, *arguments))
        return self._serial

    def reply(self, serial: int, timeout: float | None = None) -> list[Any]:
        """The results of a call that was sent, when they have come.

        Args:
            timeout: in seconds; None waits as long as the bus lives.

        Raises:
            RemoteError: the answer is an error.
            NoReply: none came in time.
            Disconnected: the bus has gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while serial not in self._replies:
            if not self.wait(deadline):
                raise NoReply(f"no answer within {timeout:g} s")
        reply = self._replies.pop(serial)
        if reply.kind == wire.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise RemoteError(reply.error_name, text, reply.sender)
        return reply.body

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
        return self.call(DRIVER, "/org/freedesktop/DBus", DRIVER, member, signature, *arguments)

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
            if not self.wait(deadline):
                return None
        return self._signals.pop(0)

    # -- the socket ------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._sock.settimeout(None)
        try:
            self._sock.sendall(data)
        except OSError as e:
            raise Disconnected(f"the connection has ended: {e.strerror}") from e

    def _read(self, deadline: float | None) -> bytes:
        if deadline is None:
            self._sock.settimeout(None)
        else:
            # A socket that is told to wait for no time does not wait, and says so otherwise.
            self._sock.settimeout(max(deadline - time.monotonic(), 1e-6))
        try:
            data = self._sock.recv(1 << 16)
        except TimeoutError:
            return b""
        except OSError as e:
            raise Disconnected(f"the connection has ended: {e.strerror}") from e
        if not data:
            raise Disconnected("the connection has ended: closed")
        return data

    def wait(self, deadline: float | None) -> bool:
        """Take what comes, for ``reply`` and ``signal``; False if nothing came in time.

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
                self._replies[message.reply_serial] = message
            elif message.kind == wire.SIGNAL:
                self._signals.append(message)
            elif message.kind == wire.CALL and not message.flags & wire.NO_REPLY_EXPECTED:
                self._refuse(message)

    def _refuse(self, call: wire.Received) -> None:
        """Nobody is served here: the caller must not wait for a timeout."""
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
