"""The signals that this process was started with, and those that it reads itself."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inherited:
    """How we were started: ``mask`` has the signals that were blocked."""

    mask: frozenset[int]


def take_over(signals: set[signal.Signals]) -> Inherited:
    """Block the signals that will be read from a signalfd, SIGCHLD among them.

    SIGCHLD may have been ignored by whoever started us, and ignored it would
    take every exit status with it: the kernel then reaps for us.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGCHLD})
    return Inherited(frozenset(before))


# Standard streams that we were started without.
absent: set[int] = set()


def open_standard_streams() -> None:
    """Put /dev/null where we were started without standard input or outputs.

    Otherwise the next descriptor that is opened becomes one of them.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            assert null == fd
            os.set_inheritable(fd, True)
            absent.add(fd)
