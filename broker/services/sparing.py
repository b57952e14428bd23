"""Ends a failed activation, except processes that own another name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from broker.core.state import State
from broker.process import procfs

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from broker.process.supervisor import Supervisor
    from broker.services.units import Unit

log = logging.getLogger(__name__)

_ENDING: Final = (State.STOP_SIGTERM, State.STOP_SIGKILL)


class Sparing:
    """Signals those processes of a service that own no name.

    An owner of a name needs its children, which do a part of its work, and may need its
    parents: a sandbox's parent ends the processes in it (PR_SET_PDEATHSIG). So an owner's
    ancestors and descendants are spared with it, and no others.

    Args:
        on_none_left: called when only spared processes of a service are left.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        on_none_left: Callable[[Unit], None],
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._on_none_left = on_none_left
        self._looking: set[Unit] = set()

    def note(self, unit: Unit, owners: Collection[int]) -> None:
        """Spare the service's processes among ``owners``, the PIDs that own a name."""
        unit.serving = frozenset(owners).intersection(self._supervisor.tree(unit.service.name))
        if unit.serving:
            pids = ", ".join(map(str, sorted(unit.serving)))
            log.warning("%s: left running for its other names: process %s", unit.service.name, pids)

    def signal(self, unit: Unit, number: int) -> None:
        """Send a signal to the processes that are not spared."""
        if not unit.serving:
            self._supervisor.signal(unit.service.name, number)
            return
        for pid in self._others(unit):
            self._supervisor.signal_process(pid, number)
        self.look(unit)

    def look(self, unit: Unit) -> None:
        """Check for processes to end, once this turn of the loop has noted all its deaths."""
        if unit.serving and unit.service.state in _ENDING and unit not in self._looking:
            self._looking.add(unit)
            self._loop.call_soon(self._look, unit)

    def _look(self, unit: Unit) -> None:
        self._looking.discard(unit)
        if unit.service.state in _ENDING and not self._others(unit):
            self._on_none_left(unit)

    def _others(self, unit: Unit) -> list[int]:
        tree = self._supervisor.tree(unit.service.name)
        spared: set[int] = set()
        for pid in unit.serving.intersection(tree):
            spared.update(procfs.ancestors(pid), procfs.with_descendants([pid]))
        return [pid for pid in tree if pid not in spared and procfs.alive(pid)]
