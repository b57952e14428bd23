"""The end of all that a session has started: services and the rest first, the bus last."""

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

# For the engine to end after SIGTERM, and for callers to take their last
# answers; it is killed, or they are left, after that.
ENGINE_STOP_TIMEOUT: Final = 2.0
# So often in vain SIGKILL is sent at the end to whatever forks faster than it is found.
KILL_ROUNDS: Final = 250


class Shutdown:
    """Ends what is there, in its order.

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
        """End everything but the engine: SIGTERM, SIGKILL, and in the end a complaint."""
        closing = asyncio.get_running_loop().create_task(self._activator.close())
        # What belongs to no service: orphans, and what a command left behind.
        for pid in self._supervisor.tree(""):
            if pid != self._engine.pid:
                self._supervisor.signal_process(pid, signal.SIGTERM)
        ended = await self._until(self._only_engine, self._stop_timeout, self._others)
        if not ended and not await self._kill():
            # A process that has become another user's, for all that we may do.
            log.error("processes that cannot be ended are left: %s", self._others())
            closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

    async def _until(
        self, over: Callable[[], bool], seconds: float, pids: Callable[[], Iterable[int]]
    ) -> bool:
        """As ``Supervisor.until``, and says for whom that is, when it takes long."""
        soon = min(late.SAID_AFTER, seconds)
        if await self._supervisor.until(over, soon):
            return True
        if soon < seconds:
            late.name_each(self._supervisor, pids())
        return await self._supervisor.until(over, seconds - soon)

    async def _kill(self) -> bool:
        """SIGKILL to everything but the engine until it has gone, or does not get less."""
        rounds, least = 0, len(self._supervisor.processes)
        while rounds < KILL_ROUNDS:
            self._supervisor.signal(None, signal.SIGKILL, self._engine.pid)
            if await self._supervisor.until(self._only_engine, KILL_PERIOD):
                return True
            # On a busy machine the dead alone may be thousands.
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
        """End the bus, which drops what it still holds for its clients."""
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
