"""A FUSE file system, by the kernel's own protocol: one whose server answers, or does not.

``<linux/fuse.h>`` has the messages. Closing the device wakes all that still wait for an
answer, whatever they are and wherever they wait, and makes the mount a dead one.

As a program, in a mount namespace of the one that is to be tested:

    python -m tests.fuse PID DEVICE MOUNTED DIRECTORY

mounts the file system of a server's process and descriptors.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICE: Final = "/dev/fuse"
PATIENCE: Final = 20  # in seconds, without a request
_PIDFD_GETFD: Final = 438
_MS_NOSUID_NODEV: Final = 6
_ROOT: Final = 1
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH = 1, 2, 3, 14, 15, 18, 25
_INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 26, 27, 28, 29, 36, 42
_NO_REPLY: Final = {_FORGET, _INTERRUPT, _BATCH_FORGET}
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Fuse:
    """The device, and the server of a directory with some files.

    Args:
        files: by name, all of them executable.
        answers: None for one that does not even read what it is asked; False for one that
            takes every request but the first, and never answers. Who waits for that one
            cannot be killed, and who waits for the other can.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, *, answers: bool | None) -> None:
        self._names = list(files or {})
        self._data = list((files or {}).values())
        self._answers = answers
        self.fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self._mounted = os.eventfd(0)  # before that the device cannot be read
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        # Released when a request was taken that gets no answer.
        self.taken = threading.Event()

    def __enter__(self) -> Self:
        if self._answers is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ended)
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._mounted)
        os.close(self._end)
        self._close()

    def mount(self, directory: str | Path) -> None:
        """In our own namespace."""
        mount(self.fd, self._mounted, str(directory))

    def mount_command(self, directory: Path) -> str:
        """For a shell in the namespace that is to have it.

        A process that hangs by mistake goes on after ``PATIENCE``, so that its test fails.
        """
        if self._thread.ident is None:
            self._thread.start()
        root = Path(__file__).parent.parent
        arguments = f"{os.getpid()} {self.fd} {self._mounted} {directory}"
        return f"mkdir -p {directory}; (cd {root}; {sys.executable} -m tests.fuse {arguments})"

    def fall_silent(self) -> None:
        """Read no request any more."""
        self._answers = None

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # -- the server ----------------------------------------------------------------

    def _serve(self) -> None:
        poll = select.poll()
        for fd in (self._mounted, self._end):
            poll.register(fd, select.POLLIN)
        poll.poll()
        poll.unregister(self._mounted)
        poll.register(self.fd, select.POLLIN)
        while self._end not in (ready := [fd for fd, _ in poll.poll(PATIENCE * 1000)]):
            if not ready:
                self._close()
                return
            if self._answers is None:
                poll.unregister(self.fd)
                continue
            try:
                request = os.read(self.fd, 1 << 17)
            except OSError as e:
                # One that was given up in this moment; or the mount has gone for good.
                if e.errno in (errno.ENOENT, errno.EINTR):
                    continue
                return
            _, code, unique, node = struct.unpack_from("=IIQQ", request)
            if code in _NO_REPLY:
                continue
            if not self._answers and code != _INIT:
                self.taken.set()
                continue
            try:
                error, answer = 0, self._answer(code, node, request[40:])
            except OSError as e:
                error, answer = -(e.errno or errno.EIO), b""
            os.write(self.fd, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)

    def _answer(self, code: int, node: int, body: bytes) -> bytes:
        if code == _INIT:
            readahead = struct.unpack_from("=III", body)[2]
            return struct.pack("=IIIIHHII32x", 7, 31, readahead, 0, 12, 10, 1 << 16, 1)
        if code == _LOOKUP:
            name = os.fsdecode(body.rstrip(b"\0"))
            if name not in self._names:
                raise OSError(errno.ENOENT, name)
            node = self._names.index(name) + _ROOT + 1
            return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)
        if code == _GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if code in (_OPEN, _OPENDIR):
            return struct.pack("=QII", 0, 0, 0)
        if code in (_READ, _READDIR):
            _, offset, size = struct.unpack_from("=QQI", body)
            if code == _READDIR:
                return self._listing(offset)
            return self._data[node - _ROOT - 1][offset : offset + size]
        if code in (_FLUSH, _RELEASE, _RELEASEDIR):
            return b""
        raise OSError(errno.ENOSYS, "not needed here")

    def _attributes(self, node: int) -> bytes:
        size = 0 if node == _ROOT else len(self._data[node - _ROOT - 1])
        mode = (stat.S_IFDIR if node == _ROOT else stat.S_IFREG) | 0o755
        return struct.pack("=QQQ24x12xIIIIIII", node, size, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _listing(self, offset: int) -> bytes:
        found = b""
        for index, name in enumerate(self._names[offset:], start=offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("=QQII", index + _ROOT, index, len(raw), stat.S_IFREG >> 12) + raw
            found += entry.ljust((len(entry) + 7) // 8 * 8, b"\0")
        return found


def mount(device: int, mounted: int, directory: str) -> None:
    """Mount the file system of an open device, and tell its server."""
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    arguments = [b"tests", directory.encode(), b"fuse", _MS_NOSUID_NODEV, options.encode()]
    if _libc.mount(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), directory)
    os.eventfd_write(mounted, 1)


def main() -> None:
    """Mount what another process serves."""
    server = os.pidfd_open(int(sys.argv[1]))
    device, mounted = (_libc.syscall(_PIDFD_GETFD, server, int(fd), 0) for fd in sys.argv[2:4])
    assert device >= 0 <= mounted, os.strerror(ctypes.get_errno())
    mount(device, mounted, sys.argv[4])


if __name__ == "__main__":
    main()
