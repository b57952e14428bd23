"""Finds the ends of pipes and sockets that processes hold.

Links of /proc/PID/fd are only read, never followed: to follow one to a FUSE file may
take for ever. So a FIFO with a name is not seen. Only sock_diag(7) tells the inode at a
Unix socket's other end; where it is not available (another network namespace, a
kernel without CONFIG_UNIX_DIAG), sockets have no other end.

Rejected: pidfd_getfd with SO_PEERCRED (it holds foreign connections open for a moment, and
names the listener or the maker of the pair, not the end's holder); /proc/net/unix (no peers).
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import stat
import struct
from typing import TYPE_CHECKING, Final

from broker.core.helpers import End
from broker.process import spare

if TYPE_CHECKING:
    from collections.abc import Iterator

# How many descriptors, and how many sockets of the machine, one reader looks at: some
# tenths of a second. Any beyond that are not seen.
_MOST: Final = 1 << 16
_LINK: Final = re.compile(r"(pipe|socket):\[(\d+)\]")
_OTHERS: Final = {"read": "write", "write": "read"}
# <linux/sock_diag.h>, <linux/unix_diag.h>, <linux/netlink.h>: the protocol's number, the
# message's type, the data wanted of each socket, and the attribute that holds it.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_UDIAG_SHOW_PEER: Final = 4
_UNIX_DIAG_PEER: Final = 2
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ANY: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBHIIIII")
_SOCKET: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")


class Channels:
    """One look at the descriptors of several processes; each is read once."""

    def __init__(self) -> None:
        self._left = _MOST
        self._held: dict[int, frozenset[End]] = {}
        self._peers: dict[int, int] | None = None

    def held(self, pid: int) -> frozenset[End]:
        """The ends that a process holds; empty if it has gone, or we may not look."""
        if pid not in self._held:
            with spare.borrowed():
                self._held[pid] = frozenset(self._read(pid))
        return self._held[pid]

    def other(self, end: End) -> End | None:
        """The other end; None if it is unknown."""
        if end.kind != "socket":
            return End(_OTHERS[end.kind], end.inode)
        if self._peers is None:
            with spare.borrowed():
                self._peers = dict(itertools.islice(_peers(), _MOST))
        peer = self._peers.get(end.inode)
        return End("socket", peer) if peer else None

    def _read(self, pid: int) -> Iterator[End]:
        try:
            with os.scandir(f"/proc/{pid}/fd") as links:
                for link in itertools.islice(links, self._left):
                    self._left -= 1
                    yield from _ends(link.path)
        except OSError:
            return


def _ends(path: str) -> Iterator[End]:
    try:
        found = _LINK.fullmatch(os.readlink(path))
        if found is None:
            return
        inode = int(found[2])
        if found[1] == "socket":
            yield End("socket", inode)
            return
        # The link's mode shows how the descriptor was opened.
        mode = os.lstat(path).st_mode
    except OSError:
        return  # closed meanwhile
    if mode & stat.S_IRUSR:
        yield End("read", inode)
    if mode & stat.S_IWUSR:
        yield End("write", inode)


def _peers() -> Iterator[tuple[int, int]]:
    """Every connected Unix socket of the network namespace, with its peer."""
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, 0, _UDIAG_SHOW_PEER, _ANY, _ANY)
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
            # The kernel answers within the call.
            diag.settimeout(1)
            diag.sendto(head + body, (0, 0))
            while messages := list(_messages(diag.recv(1 << 16))):
                for message in messages:
                    yield from _of_message(message)
    except OSError:
        return


def _messages(data: bytes) -> Iterator[bytes]:
    """The messages about sockets; empty at the end of the list, or without one."""
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        if kind != _SOCK_DIAG_BY_FAMILY:
            return
        yield data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _of_message(data: bytes) -> Iterator[tuple[int, int]]:
    inode = _SOCKET.unpack_from(data)[4]
    data = data[_SOCKET.size :]
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if kind == _UNIX_DIAG_PEER:
            (peer,) = struct.unpack_from("=I", data, _ATTRIBUTE.size)
            yield inode, peer
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return length + 3 & ~3
