"""D-Bus server addresses: ``unix:path=/run/user/1000/bus,guid=…;unix:abstract=…``.

dbus-next knows three of the forms and refuses legal characters in them. So
this module parses them, by the specification's "Server Addresses".
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from broker.core.printable import quoted
from broker.core.runtime import VARIABLE, runtime_directory
from broker.errors import Disconnected, InvalidArgs, NoReply

if TYPE_CHECKING:
    from collections.abc import Mapping

# "The set of optionally-escaped bytes is: [-0-9A-Za-z_/.\*]. To escape, each
# byte (note, not character) which is not in the set … must be replaced with an
# ASCII percent and the value of the byte in hex."
_UNESCAPED = frozenset(b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_/.\\*")
_TRANSPORT = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_HEX = frozenset(b"0123456789ABCDEFabcdef")


class Address:
    """One entry of an address list: a transport and its unescaped options."""

    def __init__(self, transport: str, options: Mapping[str, str]) -> None:
        self.transport = transport
        self.options = options

    def __str__(self) -> str:
        options = ",".join(f"{key}={escape(value)}" for key, value in self.options.items())
        return f"{self.transport}:{options}"

    def socket_name(self) -> str | None:
        """The argument for ``bind`` or ``connect``: a path, or NUL and an abstract name.

        None if the entry does not name one Unix socket.
        """
        if self.transport != "unix":
            return None
        if "path" in self.options:
            return self.options["path"]
        if "abstract" in self.options:
            return "\0" + self.options["abstract"]
        return None


def escape(value: str) -> str:
    """A value, escaped for an address."""
    return "".join(
        chr(byte) if byte in _UNESCAPED else f"%{byte:02x}" for byte in os.fsencode(value)
    )


def parse(text: str) -> list[Address]:
    """The entries of an address list, in order.

    Raises:
        InvalidArgs: it is not an address; the text quotes the entry.
    """
    entries = [entry for entry in text.split(";") if entry]
    if not entries:
        raise InvalidArgs("the bus address is empty")
    return [_parse_entry(entry) for entry in entries]


def _parse_entry(entry: str) -> Address:
    transport, colon, rest = entry.partition(":")
    options: dict[str, str] = {}
    for option in rest.split(",") if rest else ():
        key, equals, value = option.partition("=")
        text = _unescape(os.fsencode(value))
        if not key or not equals or "%" in key or (":" in key and not options) or text is None:
            colon = ""
            break
        if key in options:
            raise InvalidArgs(f"{key!r} occurs twice in the D-Bus address {entry!r}")
        options[key] = os.fsdecode(text)
    if not colon or not transport[:1].isalpha() or not _TRANSPORT.issuperset(transport):
        raise InvalidArgs(f"not a D-Bus address: {entry!r} (expected such as unix:path=/run/bus)")
    if "\0" in options.get("path", ""):
        # The kernel would cut the path there, and use another socket.
        raise InvalidArgs(f"a path cannot hold %00: {entry!r}")
    return Address(transport, options)


def _unescape(value: bytes) -> bytes | None:
    """The unescaped bytes; None if two hex digits do not follow a percent."""
    first, *rest = value.split(b"%")
    found = bytearray(first)
    for part in rest:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            return None
        found += bytes([int(part[:2], 16)]) + part[2:]
    return bytes(found)


def default(environ: Mapping[str, str]) -> str:
    """The session bus's address: ``DBUS_SESSION_BUS_ADDRESS``, else the user bus.

    Raises:
        InvalidArgs: the environment has neither.
    """
    if address := environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return address
    if directory := runtime_directory(environ):
        return f"unix:path={escape(directory)}/bus"
    if relative := environ.get(VARIABLE):
        reason = f"{VARIABLE} is ignored, as it is not an absolute path: {quoted(relative)}"
        raise InvalidArgs(f"no bus: DBUS_SESSION_BUS_ADDRESS is not set, and {reason}")
    raise InvalidArgs(f"no bus: neither DBUS_SESSION_BUS_ADDRESS nor {VARIABLE} is set")


def connect(text: str, timeout: float | None = None) -> socket.socket:
    """A socket connected to the first entry that answers.

    A connect to a Unix socket does not wait for the server, so this blocks only while the
    server's backlog is full.

    Args:
        timeout: in seconds, for each entry; None waits while the backlog is full, and 0
            does not wait at all.

    Raises:
        InvalidArgs: it is not an address, or no entry is a Unix socket.
        Disconnected: nobody listens there.
        NoReply: the server's backlog was full all the time.
    """
    reason: Exception | None = None
    for entry in parse(text):
        name = entry.socket_name()
        if name is None:
            reason = reason or InvalidArgs(
                f"cannot connect to {entry}: only Unix sockets are known"
            )
            continue
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(timeout != 0)
        try:
            if timeout:
                # Python's own timeout makes the socket non-blocking, and a non-blocking
                # connect(2) fails at once if the backlog is full.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
            sock.connect(name)
        except OSError as e:
            sock.close()
            if timeout and isinstance(e, BlockingIOError):
                reason = NoReply(f"{entry} accepts no connection within {timeout:g} s")
            else:
                reason = Disconnected(f"cannot connect to {entry}: {e.strerror or e}")
            continue
        return sock
    assert reason is not None
    raise reason


def _timeval(seconds: float) -> bytes:
    """A ``struct timeval``; never 0, which means no timeout."""
    microseconds = max(int(seconds * 1_000_000), 1)
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))
