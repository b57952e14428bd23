"""Forks the broker for one operation that may hang; the child reports its result.

It is a plain child, found, reaped and marked like all others. Rejected: a thread (in
uninterruptible sleep it keeps the whole process from ending), a program of our own (it
would start Python anew, and be read from a disk that may itself hang).
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

# A shell's exit status for a program that it cannot start.
FAILED: Final = 127


def fork(body: Callable[[int], None]) -> tuple[int, int]:
    """Run a function in a child, which ends after it.

    Args:
        body: called in the child with a descriptor to write to. All signals are blocked,
            and have our dispositions.

    Returns:
        the child's PID, and a descriptor to read from, which ends with it.

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
    # Not the interpreter's exit: its buffers and exit handlers are our parent's.
    try:
        body(write)
    finally:
        os._exit(FAILED)


def reset(ignored: frozenset[int], mask: frozenset[int]) -> None:
    """Restore default signal handling: in the child, before the operation that may hang.

    Args:
        ignored: the signals that do not get their default disposition.
        mask: the signals that are blocked from now on, and no others.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def let_go(kept: int) -> None:
    """Close the descriptors that an exec would close, except one.

    A child that cannot be killed keeps its descriptors open: our peers would not see the end
    of their connections, and our socket would go on accepting clients.
    """
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        # The descriptor that listed the directory is closed by now.
        with contextlib.suppress(OSError):
            if fd != kept and not os.get_inheritable(fd):
                os.close(fd)


def be_alone(kept: int) -> None:
    """Keep only one of our parent's descriptors, and let any signal end us."""
    reset(frozenset(), frozenset())
    let_go(kept)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        # The reader of our output must see its end, even if this child never ends.
        os.dup2(null, fd)
