"""Children that may not have executed their programs yet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.process import spawn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from broker.process.spawn import Program, SpawnRefusedError


@dataclass(slots=True)
class _Start:
    program: Program
    fd: int
    on_refused: Callable[[SpawnRefusedError], None]
    report: bytes = b""


class Starts:
    """Programs that were started without waiting for their exec."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._starts: dict[int, _Start] = {}

    def begin(self, program: Program, on_refused: Callable[[SpawnRefusedError], None]) -> int:
        """Start a program; returns its PID.

        Args:
            on_refused: called once if it cannot be executed after all; the child then ends,
                and is reaped after the call.

        Raises:
            SpawnRefusedError: no process was started.
        """
        pid, fd = spawn.begin(program)
        os.set_blocking(fd, False)
        self._starts[pid] = _Start(program, fd, on_refused)
        self._loop.add_reader(fd, self.look, pid)
        return pid

    def look(self, pid: int) -> bool:
        """Read a child's report so far, which is complete if it is dead.

        Returns:
            whether its exec is still pending; False for any other process.
        """
        start = self._starts.get(pid)
        if start is None:
            return False
        try:
            while data := os.read(start.fd, 4096):
                start.report += data
        except BlockingIOError:
            return True
        self._forget(pid)
        refused = spawn.outcome(start.program, start.report)
        if refused is not None:
            start.on_refused(refused)
        return False

    def _forget(self, pid: int) -> None:
        start = self._starts.pop(pid)
        self._loop.remove_reader(start.fd)
        os.close(start.fd)

    def close(self) -> None:
        """Stop waiting for reports."""
        for pid in list(self._starts):
            self._forget(pid)
