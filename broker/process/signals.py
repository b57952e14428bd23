"""The signal state that we were started with, and the signals that we read ourselves."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inherited:
    """The signal state at our start: ``mask`` has the blocked signals."""

    mask: frozenset[int]


def take_over(signals: set[signal.Signals]) -> Inherited:
    """Block the signals that will be read from a signalfd, SIGCHLD among them.

    Our starter may have set SIGCHLD to be ignored. Then the kernel would reap our
    children itself, and every exit status would be lost.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGCHLD})
    return Inherited(frozenset(before))


# The standard streams that were closed at our start.
absent: set[int] = set()


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that was closed at our start.

    Otherwise the next new descriptor would become one of them.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            assert null == fd
            os.set_inheritable(fd, True)
            absent.add(fd)
