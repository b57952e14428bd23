"""A real dbus-daemon as the reference: what it lists, and with which arguments it runs it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DRIVER = "org.freedesktop.DBus"
CONFIG = """<busconfig>
<type>session</type><listen>unix:dir={run}</listen><auth>EXTERNAL</auth>{directories}
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""
# Ends with 1, so that the daemon answers the start with an error as soon as the record is complete.
RECORDER = """#!/bin/sh
for argument in "$@"; do printf '%s\\000' "$argument"; done > "$RECORD"
exit 1
"""


def write_recorder(path: Path) -> Path:
    """Makes the program that tells ``Reference.run`` its arguments."""
    path.write_text(RECORDER)
    path.chmod(0o755)
    return path


class Reference:
    """A connection to a dbus-daemon: calls to its driver, one at a time, and their answers."""

    def __init__(self, connection: socket.socket, record: Path) -> None:
        self._socket = connection
        self._record = record
        self._serial = 0
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
        assert self._socket.recv(100).startswith(b"OK ")
        self._socket.sendall(b"BEGIN\r\n")
        self.call("Hello")

    def activatable(self) -> set[str]:
        """The names that the daemon would start, but its own."""
        _, body = self.call("ListActivatableNames")
        names, at = set(), 4
        while at < len(body):
            name, at = _read_string(body, at)
            names.add(name)
        return names - {DRIVER}

    def run(self, name: str) -> tuple[str, ...] | None:
        """The arguments that the service's program got; None if the daemon did not run it."""
        self._record.unlink(missing_ok=True)
        error, body = self.call("StartServiceByName", name, 0)
        while b"Failed to fork" in body:
            # Others start as many processes as there can be, for a while.
            error, body = self.call("StartServiceByName", name, 0)
        if error == f"{DRIVER}.Error.Spawn.ChildExited":
            return tuple(self._record.read_bytes().decode().split("\0")[:-1])
        assert error == f"{DRIVER}.Error.InvalidArgs", (error, body)
        assert b"Unclosed quotes" in body
        return None

    def takes(self, name: str) -> bool:
        """Whether the daemon lets a client own the name."""
        error, _ = self.call("RequestName", name, 0)
        if not error:
            self.call("ReleaseName", name)
        return not error

    def call(
        self, member: str, text: str | None = None, number: int | None = None
    ) -> tuple[str, bytes]:
        """Calls a method with no argument, a string, or a string and a number: error name, body."""
        self._serial += 1
        body = b""
        fields = [
            _field(1, "o", "/org/freedesktop/DBus"),
            _field(6, "s", DRIVER),
            _field(2, "s", DRIVER),
            _field(3, "s", member),
        ]
        if text is not None:
            body = _string(text)
            signature = b"s"
            if number is not None:
                body += bytes(-len(body) % 4) + struct.pack("<I", number)
                signature = b"su"
            fields.append(b"\x08\x01g\0" + bytes([len(signature)]) + signature + b"\0")
        # Each field starts at a multiple of eight; the array's size is without the last padding.
        array = b"".join(field + bytes(-len(field) % 8) for field in fields[:-1]) + fields[-1]
        head = struct.pack("<cBBBIII", b"l", 1, 0, 1, len(body), self._serial, len(array)) + array
        self._socket.sendall(head + bytes(-len(head) % 8) + body)
        while True:
            head = self._receive(16)
            _, kind, _, _, body_size, _, size = struct.unpack("<cBBBIII", head)
            known = _read_fields(self._receive(size + -size % 8)[:size])
            body = self._receive(body_size)
            # Signals, such as NameAcquired, have no reply serial.
            if known.get(5) == self._serial:
                error = known[4] if kind == 3 else ""
                assert isinstance(error, str)
                return error, body

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            assert chunk, "dbus-daemon closed the connection"
            data += chunk
        return data


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _field(code: int, signature: str, value: str) -> bytes:
    return bytes([code, 1]) + signature.encode() + b"\0" + _string(value)


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    at += -at % 4
    (size,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + size].decode(), at + 4 + size + 1


def _read_fields(data: bytes) -> dict[int, str | int]:
    found: dict[int, str | int] = {}
    at = 0
    while at < len(data):
        at += -at % 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"u":
            (found[code],) = struct.unpack_from("<I", data, at)
            at += 4
        elif kind == b"g":
            at += data[at] + 2
        else:
            found[code], at = _read_string(data, at)
    return found


@contextlib.contextmanager
def reference(directories: str, environ: Mapping[str, str] | None = None) -> Iterator[Reference]:
    """Starts a dbus-daemon on the directories (elements of its configuration), and ends it."""
    # Not in tmp_path, which may be too long for a socket's address.
    with tempfile.TemporaryDirectory() as run:
        config = Path(run, "bus.conf")
        config.write_text(CONFIG.format(run=run, directories=directories))
        record = Path(run, "record")
        command = ["dbus-daemon", f"--config-file={config}", "--print-address=1"]
        with subprocess.Popen(
            [*command, "--nofork", "--nopidfile", "--nosyslog"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {}), "RECORD": str(record)},
        ) as daemon:
            assert daemon.stdout
            try:
                address = re.search(r"unix:path=([^,\s]+)", daemon.stdout.readline())
                assert address, "dbus-daemon did not start"
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(20)
                    connection.connect(address[1])
                    yield Reference(connection, record)
            finally:
                daemon.terminate()


def service_directory(path: Path) -> str:
    return f"<servicedir>{path}</servicedir>"
