"""A client that does one thing as fast as its bus takes it.

``flooder ADDRESS WHAT NAME WRITES [deaf]``

- ``flip`` takes NAME and gives it up, 200 times in each write;
- ``ping`` calls NAME, and wants no answer.

It writes a line once the flood has begun, and another after so many writes; then it does
nothing more until its standard input ends. One that is deaf never reads what it is answered.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from broker.bus import address
from tests.bus import wire

if TYPE_CHECKING:
    import socket

DRIVER = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
DO_NOT_QUEUE = 4
NO_REPLY = 1
PAIRS = 200


def piece(what: str, name: str) -> bytes:
    """What is written again and again; serials need not differ where nobody waits."""
    if what == "ping":
        peer = "org.freedesktop.DBus.Peer"
        return PAIRS * wire.call("/", peer, "Ping", destination=name, serial=2, flags=NO_REPLY)
    take = wire.call(
        DRIVER_PATH, DRIVER, "RequestName", "su", [name, DO_NOT_QUEUE], destination=DRIVER, serial=2
    )
    give = wire.call(DRIVER_PATH, DRIVER, "ReleaseName", "s", [name], destination=DRIVER, serial=3)
    return PAIRS * (take + give)


def read(sock: socket.socket) -> None:
    """All that comes."""
    while sock.recv(1 << 18):
        pass


def main(where: str, what: str, name: str, *, writes: int, deaf: bool) -> None:
    """Flood until nobody holds our standard input, or the bus has thrown us off."""
    sock = address.connect(where)
    hello = wire.call(DRIVER_PATH, DRIVER, "Hello", destination=DRIVER)
    sock.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + hello)
    if not deaf:
        threading.Thread(target=read, args=[sock], daemon=True).start()
    over = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    data = piece(what, name)
    sock.sendall(data)
    print("flooding", flush=True)  # noqa: T201 - it is a program
    for _ in range(1, writes):
        if over.is_set():
            break
        try:
            sock.sendall(data)
        except OSError:
            break
    print("done", flush=True)  # noqa: T201
    over.wait()


if __name__ == "__main__":
    main(*sys.argv[1:4], writes=int(sys.argv[4]), deaf=sys.argv[5:] == ["deaf"])
