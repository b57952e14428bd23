"""A fork of the broker for what may hang: it does that one thing, and says what came of it.

It is a plain child, so nothing here has to be searched for, reaped or marked in another
way than the rest. Rejected: a thread (one that sleeps in the kernel where nothing can
wake it keeps the whole process from ending), a program of our own (it would start
Python anew, and be read from a disk that may be the one that hangs).
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

# What a shell says of a program that it cannot start.
FAILED: Final = 127


def fork(body: Callable[[int], None]) -> tuple[int, int]:
    """Have a child run a function, and end.

    Args:
        body: called in the child with a descriptor to write to. All signals are blocked,
            and have the dispositions that we have.

    Returns:
        its PID, and a descriptor to read from, which ends with it.

    Raises:
        OSError: the system has no room for it.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    # In the child a handler of ours would write to our loop's own descriptors.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(body, write)
    except OSError:
        os.close(read)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write)
    return pid, read


def _be_child(body: Callable[[int], None], write: int) -> NoReturn:
    # Not the interpreter's way out: buffers and what runs at an exit are our parent's.
    try:
        body(write)
    finally:
        os._exit(FAILED)


def reset(ignored: frozenset[int], mask: frozenset[int]) -> None:
    """Be ended by what ends others: in the child, before it does what may hang.

    Args:
        ignored: the signals that do not get their default disposition.
        mask: those that are blocked from now on, and no others.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def let_go(kept: int) -> None:
    """Close what an exec would close, and keep one of them.

    A child that cannot be ended holds what it has open: nobody would see the end of our
    connections, and our socket would go on to take clients.
    """
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        # The descriptor that listed the directory is closed by now.
        with contextlib.suppress(OSError):
            if fd != kept and not os.get_inheritable(fd):
                os.close(fd)


def be_alone(kept: int) -> None:
    """Have nothing of our parent's but one descriptor, and be ended by any signal."""
    reset(frozenset(), frozenset())
    let_go(kept)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        # Whoever reads our output must see its end, though this child may never end.
        os.dup2(null, fd)
