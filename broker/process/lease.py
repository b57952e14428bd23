"""A file that is read when we have had our say: a lease on it (fcntl(2), F_SETLEASE).

"When a process (the lease breaker) performs an open(2) … that conflicts with a lease
established via F_SETLEASE, the system call is blocked by the kernel and the kernel
notifies the lease holder". It is blocked until we let go, die, or for
/proc/sys/fs/lease-break-time, 45 s by default.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import threading
from typing import TYPE_CHECKING, Final

from broker.process import kernel
from broker.process.locked import umask

if TYPE_CHECKING:
    from collections.abc import Callable

# <asm-generic/fcntl.h>: a signal for one thread, which has it blocked; others of a process
# that has some (a test's) have not, and the default action would end it.
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class Gate:
    """A file with a text, which nobody else reads before ``on_reader`` has returned.

    Each reader but one that comes while another is let in, since that one is served by the
    same look, gets a file of its own: a new one takes the name, with a lease, before the
    old one is let go. So there is no moment without.

    Args:
        path: of the file, which need not exist; its directory is ours alone.
        on_reader: called in the loop, while whoever opens the file stands still.
        on_failed: called with the reason when there is no lease any more.
    """

    def __init__(
        self,
        path: str,
        text: str,
        on_reader: Callable[[], None],
        on_failed: Callable[[OSError], None],
    ) -> None:
        self._path = path
        self._text = text.encode()
        self._on_reader = on_reader
        self._on_failed = on_failed
        self._fd = -1
        # Not for a signal of another number: one that is lost would hold the reader up.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        self._signals = kernel.open_signalfd([signal.SIGIO])
        asyncio.get_running_loop().add_reader(self._signals, self._on_signal)

    def shut(self) -> None:
        """Take a lease, if there is none."""
        if self._fd < 0:
            self._renew()

    def close(self) -> None:
        """Let everybody in."""
        if self._signals >= 0:
            asyncio.get_running_loop().remove_reader(self._signals)
            os.close(self._signals)
            self._signals = -1
        self._open()

    def _on_signal(self) -> None:
        kernel.read_signalfd(self._signals)
        # Somebody else may have sent it.
        if self._fd < 0 or fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK:
            return
        try:
            self._on_reader()
        finally:
            self._renew()

    def _renew(self) -> None:
        new = f"{self._path}.new"
        fd = -1
        try:
            with umask(0o077):
                fd = os.open(new, _NEW, 0o600)
            os.write(fd, self._text)
            owner = struct.pack("ii", _F_OWNER_TID, threading.get_native_id())
            fcntl.fcntl(fd, _F_SETOWN_EX, owner)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            os.rename(new, self._path)
        except OSError as e:
            self._open()
            if fd >= 0:
                os.close(fd)
            self._on_failed(e)
        else:
            self._open()
            self._fd = fd

    def _open(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Told to the kernel, since a fork of ours may hold the descriptor for a moment.
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(fd)
