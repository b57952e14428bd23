"""Ends all processes that a session has started: the bus last."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Final

from broker.services.activator import KILL_PERIOD
from broker.session import late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.engine.base import Engine
    from broker.process.supervisor import Supervisor
    from broker.services.activator import Activator

log = logging.getLogger(__name__)

# How long the engine may take to end after SIGTERM, and callers to receive their last
# answers; after that the engine is killed, and the callers are abandoned.
ENGINE_STOP_TIMEOUT: Final = 2.0
# Rounds of SIGKILL without progress, against processes that fork faster than we find them.
KILL_ROUNDS: Final = 250


class Shutdown:
    """Ends the session's processes in order.

    Args:
        stop_timeout: from SIGTERM to SIGKILL, in seconds.
    """

    def __init__(
        self, supervisor: Supervisor, activator: Activator, engine: Engine, stop_timeout: float
    ) -> None:
        self._supervisor = supervisor
        self._activator = activator
        self._engine = engine
        self._stop_timeout = stop_timeout

    async def stop_processes(self) -> None:
        """End everything but the engine: SIGTERM, SIGKILL, and at last an error in the log."""
        closing = asyncio.get_running_loop().create_task(self._activator.close())
        # Processes of no service: orphans, and the command's leftovers.
        for pid in self._supervisor.tree(""):
            if pid != self._engine.pid:
                self._supervisor.signal_process(pid, signal.SIGTERM)
        ended = await self._until(self._only_engine, self._stop_timeout, self._others)
        if not ended and not await self._kill():
            # Perhaps processes that have become another user's, which we may not signal.
            log.error("processes that cannot be ended are left: %s", self._others())
            closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

    async def _until(
        self, over: Callable[[], bool], seconds: float, pids: Callable[[], Iterable[int]]
    ) -> bool:
        """As ``Supervisor.until``; logs the processes that are waited for if it takes long."""
        soon = min(late.SAID_AFTER, seconds)
        if await self._supervisor.until(over, soon):
            return True
        if soon < seconds:
            late.name_each(self._supervisor, pids())
        return await self._supervisor.until(over, seconds - soon)

    async def _kill(self) -> bool:
        """SIGKILL to everything but the engine, until all are gone or no round makes them fewer."""
        rounds, least = 0, len(self._supervisor.processes)
        while rounds < KILL_ROUNDS:
            self._supervisor.signal(None, signal.SIGKILL, self._engine.pid)
            if await self._supervisor.until(self._only_engine, KILL_PERIOD):
                return True
            # On a busy machine thousands of dead may wait to be reaped.
            left = len(self._supervisor.processes)
            rounds = 0 if left < least else rounds + 1
            least = min(left, least)
        return False

    def _others(self) -> list[int]:
        return [pid for pid in self._supervisor.tree(None) if pid != self._engine.pid]

    def _only_engine(self) -> bool:
        live = self._supervisor.processes.live()
        return all(process.pid == self._engine.pid for process in live)

    async def stop_engine(self) -> None:
        """End the bus, which drops its clients' undelivered messages."""
        self._engine.stop()
        pid = self._engine.pid
        for number in self._engine.stop_signals:
            if pid in self._supervisor.processes:
                self._supervisor.signal_process(pid, number)
                await self._until(
                    lambda: pid not in self._supervisor.processes,
                    ENGINE_STOP_TIMEOUT,
                    lambda: [pid],
                )
