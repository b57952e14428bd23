"""A file whose readers wait for us: we hold a lease on it (fcntl(2), F_SETLEASE).

"When a process (the lease breaker) performs an open(2) … that conflicts with a lease
established via F_SETLEASE, the system call is blocked by the kernel and the kernel
notifies the lease holder". The open waits until we release the lease or die, and at most
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

# <asm-generic/fcntl.h>: directs the signal to one thread, which has it blocked. Other
# threads (a test process has some) do not, and the default action would end the process.
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class Gate:
    """A file with a text; no other process can read it before ``on_reader`` has returned.

    Each reader gets a file of its own: a new file with a lease takes the name before the old
    one is released, so a leased file is always there. Only a reader that arrives during the
    release shares the old file, and the same call of ``on_reader``.

    Args:
        path: of the file, which need not exist; its directory is ours alone.
        on_reader: called in the loop, while the reader is blocked in its open.
        on_failed: called with the reason when the lease is lost.
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
        self._signals = -1
        self._mask: set[int] = set()

    def shut(self) -> None:
        """Take a lease, if we hold none; SIGIO is blocked from now on."""
        if self._signals < 0:
            # No other signal by F_SETSIG: if one were lost, the reader would be held up.
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
            self._signals = kernel.open_signalfd([signal.SIGIO])
            asyncio.get_running_loop().add_reader(self._signals, self._on_signal)
        if self._fd < 0:
            self._renew()

    def close(self) -> None:
        """Release the lease: all readers may go on. The signal mask is as it was before."""
        self._open()
        if self._signals >= 0:
            asyncio.get_running_loop().remove_reader(self._signals)
            # A pending SIGIO would end the process as soon as it is not blocked.
            kernel.read_signalfd(self._signals)
            os.close(self._signals)
            self._signals = -1
            if signal.SIGIO not in self._mask:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})

    def _on_signal(self) -> None:
        kernel.read_signalfd(self._signals)
        # Another process may have sent the signal.
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
            # Released explicitly, since a fork of ours may hold the descriptor for a moment.
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(fd)
