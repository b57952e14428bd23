"""What services write on standard output and error, read into their logs.

Two pipes for each activation. With one for both, the order between the streams
would be kept, but not which is which, and that order is mostly lost before: a
program keeps back what it has for a standard output that is no terminal, and
writes it at its end, behind what it said on standard error. So within a stream
the order is exact; between the two it is that in which they had something to
read. (Who needs the other has ``2>&1``.)

The descriptors that services get can be read from as well. So there is always a
reader, and whoever outlives us when we are killed does not die of SIGPIPE, with
nobody left to say why: it goes on, and waits when it has filled a pipe (64 KiB)
that nobody empties any more. Rejected: files, which a flood fills where a pipe
slows it down; a process that reads in our place, which can be killed as well;
sockets, which cannot be opened as /dev/stderr (ENXIO); terminals, on which
programs behave in other ways, and get SIGHUP and EIO in the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.core.exits import Result
from broker.core.lines import Lines
from broker.core.log import STDERR, STDOUT, Log
from broker.errors import LimitsExceeded
from broker.process import clock
from broker.process.spawn import SpawnRefusedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

# What is read in one turn of the event loop, from all services together, in bytes and
# in reads: a few milliseconds' work, if it is nothing but newlines or comes one by one.
PER_TURN: Final = 16 * 1024
READS_PER_TURN: Final = 64
# More than this no pipe holds, unless root has made it larger (pipe(7)).
LARGEST_PIPE: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Pipe:
    """The end that we read of a stream of one activation."""

    fd: int
    log: Log
    activation: int
    stream: str
    lines: Lines = field(default_factory=Lines)


class Capture:
    """Reader of all captured outputs.

    Args:
        on_asked: called when there is more in a log that somebody has asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_asked: Callable[[Log], None]) -> None:
        self._loop = loop
        self._on_asked = on_asked
        self._pipes: dict[int, _Pipe] = {}
        # A set of its own within the loop's: the kernel has those that can be read in
        # the order in which they became so, and "successive epoll_wait() calls will
        # round robin through the set of ready file descriptors" (epoll_wait(2)).
        self._readable = select.epoll()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    @contextlib.contextmanager
    def outputs(self, log: Log, activation: int) -> Iterator[Mapping[int, int]]:
        """Descriptors for the outputs of a program that is spawned within.

        If it is not, there is nothing to clean up: the pipes have ended.

        Raises:
            SpawnRefusedError: we have no descriptors left.
        """
        with contextlib.ExitStack() as ours:
            fds = {}
            try:
                for fd, stream in ((1, STDOUT), (2, STDERR)):
                    fds[fd] = self._open(log, activation, stream)
                    ours.callback(os.close, fds[fd])
            except OSError as e:
                text = f"Failed to make a pipe for the output of {log.service}: {e.strerror}"
                raise SpawnRefusedError(LimitsExceeded(text), Result.RESOURCES) from e
            yield fds

    def _open(self, log: Log, activation: int, stream: str) -> int:
        """A new pipe; returns the service's end."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            both = os.open(f"/proc/self/fd/{read}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        # Not blocking is ours alone, since the other end was opened by itself. And we
        # must not block: a service can take away what we were told is there.
        os.set_blocking(read, False)
        self._pipes[read] = _Pipe(read, log, activation, stream)
        self._readable.register(read, select.EPOLLIN)
        return both

    def read_all(self, log: Log) -> None:
        """Read all that has been written so far."""
        # As many as there are: Python asks for 1023 unless told.
        for fd, _ in self._readable.poll(0, len(self._pipes) or 1):
            pipe = self._pipes[fd]
            # Once for what is there, and once to see that there will be no more.
            if pipe.log is log and self._read(pipe, LARGEST_PIPE):
                self._read(pipe, LARGEST_PIPE)

    # -- reading ---------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._readable, self._read_some)

    def _read_some(self) -> None:
        """A bounded amount, from one after the other.

        A service that writes faster than that is slowed down by its full pipe. As much
        time as it took is left to everyone else before there is more.
        """
        began = time.monotonic()
        left = PER_TURN
        for _ in range(READS_PER_TURN):
            ready = self._readable.poll(0, 1)
            if not ready:
                return
            left -= self._read(self._pipes[ready[0][0]], PER_TURN)
            if left <= 0:
                break
        self._loop.remove_reader(self._readable)
        self._pause = self._loop.call_later(time.monotonic() - began, self._listen)

    def _read(self, pipe: _Pipe, most: int) -> int:
        """Read up to so many bytes; closes the pipe at its end.

        Returns:
            how many there were.
        """
        try:
            data = os.read(pipe.fd, most)
        except BlockingIOError:
            return 0
        self._append(pipe, pipe.lines.feed(data) if data else pipe.lines.finish())
        if not data:
            self._close(pipe)
        return len(data)

    def _append(self, pipe: _Pipe, lines: list[bytes]) -> None:
        if lines:
            pipe.log.extend(lines, clock.now(), pipe.activation, pipe.stream)
            if pipe.log.asked:
                pipe.log.asked = False
                self._on_asked(pipe.log)

    # -- the end ---------------------------------------------------------------

    def _close(self, pipe: _Pipe) -> None:
        del self._pipes[pipe.fd]
        self._readable.unregister(pipe.fd)
        os.close(pipe.fd)

    def close(self) -> None:
        """Read no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._readable)
        for pipe in list(self._pipes.values()):
            self._close(pipe)
        self._readable.close()
