"""The client's side of the authentication, the same towards a bus and a peer.

Only EXTERNAL, without an identity: the server uses the socket's credentials, and
would accept no other identity. (An explicit UID is wrong in a user namespace.)

Sending all of it in one piece, as sd-bus does, would save a round trip. But xdg-dbus-proxy, the
proxy in every Flatpak sandbox, then takes the server's lines for messages if they arrive after
our BEGIN (versions before 0.1.6), and hangs up. The specification has this order, too: "The
server replies with OK … The client sends BEGIN" (Authentication Protocol).
"""

from __future__ import annotations

from typing import Final

from broker.errors import Disconnected

# "DATA", "OK <32 hex digits>" and "AGREE_UNIX_FD" fit many times; a server that sends
# more than this without a line end does not speak D-Bus.
MAX_AUTH_BYTES: Final = 4096

# Sent after the server's last line; messages may follow at once.
BEGIN: Final = b"BEGIN\r\n"


class Authentication:
    """Reads the server's lines.

    Attributes:
        opening: the first bytes to send, in one piece.
        guid: of the server, 32 hex digits; empty until received.
    """

    def __init__(self, *, pass_fds: bool) -> None:
        negotiate = b"NEGOTIATE_UNIX_FD\r\n" if pass_fds else b""
        self.opening = b"\0AUTH EXTERNAL\r\nDATA\r\n" + negotiate
        self.guid = ""
        self._expected = [b"DATA", b"OK"] + ([b"AGREE_UNIX_FD"] if pass_fds else [])
        self._said = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take received bytes.

        Returns:
            the bytes after the last line, when it is time for BEGIN; None while lines are
            missing.

        Raises:
            Disconnected: the server refuses us, or does not speak D-Bus.
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
