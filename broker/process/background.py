"""Goes into the background, as a daemon that returns to its starter when it is ready."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from broker.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Iterable

_READY: Final = b"\0"


class Background:
    """Forks: we go on in the child. Made before we have any other child.

    The original process waits in here and never returns: it exits with 0 when we are
    ``ready``, or with our exit status if we end before. Rejected: to start the program
    once more, which would read its configuration a second time, and perhaps see
    another one.

    Args:
        unneeded: descriptors that only our starter has a use for. A daemon that kept one
            would keep a reader waiting for its end, or hold its lock.

    Attributes:
        starter: the PID of the waiting process.
    """

    def __init__(self, unneeded: Iterable[int] = ()) -> None:
        self.starter = os.getpid()
        read, self._write = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child:
            os.close(self._write)
            if os.read(read, 1) == _READY:
                os._exit(0)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
        os.close(read)
        for fd in unneeded:
            os.close(fd)
        os.setsid()

    def ready(self) -> None:
        """Let our starter go on, and release the terminal.

        Raises:
            BadConfiguration: the starter has gone already.
        """
        # A daemon must keep no directory busy, and no terminal.
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        try:
            os.write(self._write, _READY)
        except BrokenPipeError as e:
            # No one has heard of the bus, so no one would end it.
            raise BadConfiguration("the process that started us in the background has ended") from e
        os.close(self._write)
