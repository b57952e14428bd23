"""The client's side of the authentication, which is the same towards a bus and a peer.

Only EXTERNAL, and no identity is given: the server takes the socket's credentials,
the only one that it would accept. (Spelt out, it is wrong in a user namespace.)

All in one piece would save a trip, as sd-bus does it. But xdg-dbus-proxy, which stands before
the bus in every sandbox of Flatpak's, takes what the server says behind our BEGIN for messages
(versions before 0.1.6), and hangs up. "The server replies with OK … The client sends BEGIN" is
what the specification has (Authentication Protocol).
"""

from __future__ import annotations

from typing import Final

from broker.errors import Disconnected

# "DATA", "OK <32 hex digits>" and "AGREE_UNIX_FD" fit many times; whoever sends
# more than this without a line end is no D-Bus server.
MAX_AUTH_BYTES: Final = 4096

# To be sent when the server has said all; messages may follow at once.
BEGIN: Final = b"BEGIN\r\n"


class Authentication:
    """Reads the server's lines.

    Attributes:
        opening: what is to be sent first, in one piece.
        guid: of the server, 32 hex digits; empty until it has said it.
    """

    def __init__(self, *, pass_fds: bool) -> None:
        negotiate = b"NEGOTIATE_UNIX_FD\r\n" if pass_fds else b""
        self.opening = b"\0AUTH EXTERNAL\r\nDATA\r\n" + negotiate
        self.guid = ""
        self._expected = [b"DATA", b"OK"] + ([b"AGREE_UNIX_FD"] if pass_fds else [])
        self._said = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take what has come.

        Returns:
            what is behind the last line, when it is time for BEGIN; None while there is more
            to come.

        Raises:
            Disconnected: the server refuses us, or is none.
        """
        self._said += data
        while self._expected:
            line, end, rest = self._said.partition(b"\r\n")
            if not end:
                if len(self._said) > MAX_AUTH_BYTES:
                    raise Disconnected("the server refused us: a line without end")
                return None
            self._said = rest
            word, _, argument = line.partition(b" ")
            if word != self._expected.pop(0):
                raise Disconnected(f"the server refused us: {line[:100].decode('latin-1')!a}")
            if word == b"OK":
                self.guid = argument.decode("ascii", "backslashreplace")
        return self._said
