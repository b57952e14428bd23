"""System calls that Python's library lacks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.errors import KernelRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_libc = ctypes.CDLL(None, use_errno=True)

# <linux/prctl.h>
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
# sizeof(sigset_t) in glibc and musl; the kernel reads the first 8 bytes.
_SIGSET_BYTES: Final = 128
# No descriptors left, here or in the whole system, no memory, no room on a disk.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}
# sizeof(struct signalfd_siginfo): "The read(2) returns … one or more structures".
SIGINFO_BYTES: Final = 128
_SIGINFO: Final = struct.Struct("=I4xiI")  # ssi_signo, ssi_code, ssi_pid

# si_code of the kernel's own signals, <asm-generic/siginfo.h>.
SI_KERNEL: Final = 0x80


@contextlib.contextmanager
def shortage_is_fault() -> Iterator[None]:
    """Turn a shortage of a system resource within the context into a Fault that names it.

    So for /dev/null too, which a container may lack.

    For the start of a session: later, a shortage costs only one activation.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in _SHORTAGES and e.filename != os.devnull:
            raise
        what = f": {e.filename}" if e.filename else ""
        raise KernelRefused(f"cannot start: {e.strerror}{what}") from e


def check() -> None:
    """Try the system calls of an event loop, whose own failure would print tracebacks.

    Raises:
        KernelRefused: a filter forbids one, or the table of descriptors is full.
    """
    try:
        with contextlib.ExitStack() as stack:
            for each in socket.socketpair():
                stack.enter_context(each)
            stack.callback(os.close, os.dup(each.fileno()))  # an epoll's place
    except OSError as e:
        raise KernelRefused(f"cannot start: socketpair: {e.strerror}") from e


def _prctl(option: int, argument: object) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        error = ctypes.get_errno()
        raise KernelRefused(f"prctl({option}): {os.strerror(error)}")


def become_subreaper() -> None:
    """Adopt the orphans among our descendants (Linux 3.4 and newer).

    Raises:
        KernelRefused: the kernel cannot; without this, supervision is impossible.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def is_subreaper() -> bool:
    """Whether the kernel has us as a subreaper."""
    answer = ctypes.c_int(-1)
    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return answer.value == 1


def set_name(name: str) -> None:
    """Set the name that ps and top show for this process; 15 bytes at most."""
    _prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))


def open_signalfd(signals: Iterable[int]) -> int:
    """A descriptor to read blocked signals from; not blocking, closed on exec.

    Raises:
        KernelRefused: there is no signalfd.
    """
    mask = (ctypes.c_ubyte * _SIGSET_BYTES)()
    for number in signals:
        mask[(number - 1) // 8] |= 1 << (number - 1) % 8
    fd: int = _libc.signalfd(-1, ctypes.byref(mask), os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise KernelRefused(f"signalfd: {os.strerror(ctypes.get_errno())}")
    return fd


class Received(NamedTuple):
    """A signal: its number, its ``si_code``, and its sender's PID; 0 if that is not visible."""

    number: signal.Signals
    code: int
    sender: int


def read_signals(fd: int) -> list[Received]:
    """The pending signals of a signalfd, oldest first."""
    found: list[Received] = []
    while True:
        try:
            data = os.read(fd, SIGINFO_BYTES * 16)
        except BlockingIOError:
            return found
        for start in range(0, len(data), SIGINFO_BYTES):
            number, code, sender = _SIGINFO.unpack_from(data, start)
            found.append(Received(signal.Signals(number), code, sender))


def read_signalfd(fd: int) -> list[tuple[signal.Signals, int]]:
    """The same, as (number, ``si_code``)."""
    return [(each.number, each.code) for each in read_signals(fd)]
