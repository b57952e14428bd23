"""Going into the background, as daemons do that return when they can be used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from broker.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Iterable

_READY: Final = b"\0"


class Background:
    """Made before there is any child of ours: from there on, we are another process.

    The one that was started waits in here and never returns: it ends with 0 when
    we are ``ready``, or as we do if we end before. Rejected: to start the program
    once more, which would read its configuration a second time, and hold two
    opinions of it.

    Args:
        unneeded: descriptors that only whoever started us has a use for. A daemon that
            holds one is waited for where somebody reads to its end, or wants its lock.

    Attributes:
        starter: the PID of the one that waits.
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
        """Let whoever started us go on, and let go of the terminal.

        Raises:
            BadConfiguration: it has gone already.
        """
        # No directory is kept busy by a daemon, and no terminal.
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        try:
            os.write(self._write, _READY)
        except BrokenPipeError as e:
            # Nobody has heard of the bus, and nobody would end it.
            raise BadConfiguration("whoever started us in the background has gone") from e
        os.close(self._write)
