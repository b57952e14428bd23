"""Reads services' standard output and error into their logs.

Each activation has two pipes. One pipe for both streams would keep the order
between them, but not tell them apart, and that order is mostly lost before: a
program buffers a standard output that is no terminal, and writes it at its end,
after its standard error. So within a stream the order is exact; between the two
it is the order in which they became readable. (``2>&1`` gives the exact order.)

The services' descriptors can be read from as well. So the pipe always has a
reader, and a service that outlives us when we are killed does not die of SIGPIPE
without a trace: it goes on, and blocks when it has filled the pipe (64 KiB),
which has no active reader any more. Rejected: files, which a flood fills where a
pipe slows it down; a separate reader process, which can be killed as well;
sockets, which cannot be opened as /dev/stderr (ENXIO); terminals, on which
programs behave differently, and get SIGHUP and EIO in the end.
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

# The most to read in one turn of the event loop, from all services together, in bytes and
# in reads: a few milliseconds' work, even for nothing but newlines or single bytes.
PER_TURN: Final = 16 * 1024
READS_PER_TURN: Final = 64
# The most that a pipe holds, unless root has raised the limit (pipe(7)).
LARGEST_PIPE: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Pipe:
    """Our end of the pipe for one stream of one activation."""

    fd: int
    log: Log
    activation: int
    stream: str
    lines: Lines = field(default_factory=Lines)


class Capture:
    """Reads all captured outputs.

    Args:
        on_asked: called for new lines in a log that a client has asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_asked: Callable[[Log], None]) -> None:
        self._loop = loop
        self._on_asked = on_asked
        self._pipes: dict[int, _Pipe] = {}
        # An epoll set of its own within the loop's: the kernel lists readable pipes in the
        # order in which they became so, and "successive epoll_wait() calls will
        # round robin through the set of ready file descriptors" (epoll_wait(2)).
        self._readable = select.epoll()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    @contextlib.contextmanager
    def outputs(self, log: Log, activation: int) -> Iterator[Mapping[int, int]]:
        """Descriptors for the outputs of a program that is spawned within the context.

        If the spawn fails, no cleanup is needed: the pipes have ended.

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
        # O_NONBLOCK affects our end alone, since the other end was opened separately. We
        # must not block: a service can read away the bytes that the kernel told us of.
        os.set_blocking(read, False)
        self._pipes[read] = _Pipe(read, log, activation, stream)
        self._readable.register(read, select.EPOLLIN)
        return both

    def read_all(self, log: Log) -> None:
        """Read everything that has been written so far."""
        # As many events as there are pipes: Python's default is 1023.
        for fd, _ in self._readable.poll(0, len(self._pipes) or 1):
            pipe = self._pipes[fd]
            # Once for the data, and once for the end of the pipe.
            if pipe.log is log and self._read(pipe, LARGEST_PIPE):
                self._read(pipe, LARGEST_PIPE)

    # -- reading ---------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._readable, self._read_some)

    def _read_some(self) -> None:
        """Read a bounded amount, from each pipe in turn.

        A service that writes faster is slowed down by its full pipe. The next read waits as
        long as this one took, so that other work gets as much time.
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
        """Read up to ``most`` bytes; closes the pipe at its end.

        Returns:
            the number of bytes read.
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
        """Stop reading."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._readable)
        for pipe in list(self._pipes.values()):
            self._close(pipe)
        self._readable.close()
