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
import time
from collections import deque
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

# Bytes that are read in one turn of the event loop, from all services together: a
# few milliseconds' work if it is nothing but newlines.
PER_TURN: Final = 16 * 1024
# More than this no pipe holds, unless root has made it larger (pipe(7)).
LARGEST_PIPE: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Pipe:
    """The end that we read of a stream of one activation; ``fd`` is -1 once it is closed."""

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
        self._pipes: dict[Log, list[_Pipe]] = {}
        # Those with something to read, in the order in which the kernel told of them.
        self._ready: deque[_Pipe] = deque()
        self._turn: asyncio.Handle | None = None

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
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            # An open of its own, so that not blocking is ours alone; we must not, since
            # a service can take from its pipe what we were told is there.
            both = os.open(f"/proc/self/fd/{read}", os.O_RDWR | os.O_CLOEXEC)
            os.set_blocking(read, False)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        pipe = _Pipe(read, log, activation, stream)
        self._pipes.setdefault(log, []).append(pipe)
        self._watch(pipe)
        return both

    def drain(self, log: Log) -> None:
        """Read all that has been written so far."""
        for pipe in list(self._pipes.get(log, ())):
            # Once for what is there, and once to see that there will be no more.
            if self._read(pipe, LARGEST_PIPE):
                self._read(pipe, LARGEST_PIPE)

    # -- reading ---------------------------------------------------------------

    def _watch(self, pipe: _Pipe) -> None:
        self._loop.add_reader(pipe.fd, self._on_readable, pipe)

    def _on_readable(self, pipe: _Pipe) -> None:
        self._loop.remove_reader(pipe.fd)
        self._ready.append(pipe)
        if self._turn is None:
            self._turn = self._loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        """A bounded amount, from one after the other.

        A service that writes faster than that is slowed down by its full pipe. As much
        time as it took is left to everyone else before the next turn.
        """
        began = time.monotonic()
        left = PER_TURN
        while self._ready and left > 0:
            pipe = self._ready.popleft()
            if pipe.fd < 0:
                continue  # drained meanwhile, to its end
            size = self._read(pipe, PER_TURN)
            left -= size
            if size == PER_TURN:
                self._ready.append(pipe)
            elif pipe.fd >= 0:
                self._watch(pipe)
        self._turn = None
        if self._ready:
            delay = time.monotonic() - began
            self._turn = self._loop.call_later(delay, self._read_some)

    def _read(self, pipe: _Pipe, most: int) -> int:
        """Read up to so many bytes; closes the pipe at its end.

        Returns:
            how many there were.
        """
        try:
            data = os.read(pipe.fd, most)
        except BlockingIOError:
            return 0
        if data:
            self._append(pipe, pipe.lines.feed(data))
        else:
            self._append(pipe, pipe.lines.finish())
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
        self._loop.remove_reader(pipe.fd)
        os.close(pipe.fd)
        pipe.fd = -1
        self._pipes[pipe.log].remove(pipe)
        if not self._pipes[pipe.log]:
            del self._pipes[pipe.log]

    def close(self) -> None:
        """Read no more."""
        for pipes in list(self._pipes.values()):
            for pipe in list(pipes):
                self._close(pipe)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
