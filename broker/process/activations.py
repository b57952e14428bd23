"""The activations with live processes, and the marks that identify their processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.core.attribution import Attribution, Evidence, Marks
from broker.process import clock, procfs, tag
from broker.process.cgroup import Cgroups
from broker.process.tag import Tagger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from broker.core.clock import Instant
    from broker.process.procfs import Stat
    from broker.process.tag import Range

log = logging.getLogger(__name__)

NO_ACTIVATION: Final = 0


@dataclass(frozen=True, slots=True)
class _Activation:
    service: str
    cgroup: str | None
    beginning: clock.Beginning


class Activations:
    """Every activation with a process left, by its serial: from 1 on, never reused.

    A child inherits the marks that we bear ourselves at its spawn, so ``begin`` comes
    before the spawn. It is followed by either ``begun`` or ``withdraw``.

    Attributes:
        cgroups: the activations' cgroups, where they have any.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tagger = Tagger()
        self.cgroups = Cgroups(wanted=not self._tagger.stride)
        self._marks = Marks(self._tagger.stride)
        self._activations: dict[int, _Activation] = {}
        self._count = NO_ACTIVATION
        self._cgroup_used = False
        self._used_up = False

    @property
    def tags(self) -> Range | None:
        """The tags that new processes can bear; None where tags cannot be set."""
        return self._tagger.range

    @property
    def settled(self) -> bool:
        """Whether no process was started in this turn of the loop."""
        return not self._cgroup_used

    # -- an activation's beginning and end -------------------------------------

    def begin(self) -> int:
        """Take on the marks of a new activation."""
        self._leave_cgroup()
        self._count += 1
        value = self._tagger.advance()
        if value is None and self._tagger.stride and not self._used_up:
            self._used_up = True
            log.warning("no marks are left: new services that daemonize will not be tracked")
        self._marks.add(self._count, tag=value, cgroup=self.cgroups.current)
        return self._count

    def begun(
        self, activation: int, service: str, beginning: clock.Beginning, leader: int | None
    ) -> None:
        """A process was spawned with the marks, for a service or for none.

        Args:
            beginning: a moment before its start.
            leader: its PID if it leads a session of its own.
        """
        self._activations[activation] = _Activation(service, self.cgroups.current, beginning)
        if leader is not None:
            self._marks.add_leader(activation, leader)
        self._cgroup_used = True
        self._loop.call_soon(self._leave_cgroup)

    def withdraw(self, activation: int) -> None:
        """No process was spawned."""
        self._marks.forget(activation)

    def _leave_cgroup(self) -> None:
        """Leave our cgroup to the child that was born in it."""
        if self._cgroup_used:
            self._cgroup_used = False
            self.cgroups.advance()

    def forget(self, activation: int) -> None:
        """The activation's last process has gone."""
        known = self._activations.pop(activation)
        self._marks.forget(activation)
        if known.cgroup is not None:
            self._leave_cgroup()
            self.cgroups.remove(known.cgroup)

    def kill(self, activation: int) -> None:
        """Kill all its processes at once, if it has a cgroup."""
        cgroup = self._activations[activation].cgroup
        if cgroup is not None:
            self.cgroups.kill(cgroup)

    def close(self) -> None:
        """Leave the cgroups, after all started processes have ended."""
        self.cgroups.close()

    # -- attribution -----------------------------------------------------------

    def service(self, activation: int) -> str:
        """The activation's service; empty for none."""
        known = self._activations.get(activation)
        return known.service if known else ""

    def started(self, activation: int, about: Stat | None) -> Instant:
        """When one of its processes was started; ``about`` is None for the spawned one."""
        known = self._activations.get(activation)
        if about is None:
            return known.beginning.at if known else clock.now()
        return clock.of_ticks(about.start_ticks, known.beginning if known else clock.ANY_TIME)

    def of_service(self, service: str | None) -> Iterator[int]:
        """The activations of a service, of none (empty), or all (None)."""
        for activation, known in self._activations.items():
            if service is None or known.service == service:
                yield activation

    def attribute(self, pid: int, about: Stat | None = None) -> tuple[int, Attribution]:
        """The activation of any process, alive or a zombie, and the mark that proves it.

        Args:
            about: the result of ``procfs.stat`` just now.
        """
        about = about or procfs.stat(pid)
        if about is None:
            return NO_ACTIVATION, Attribution.NONE
        evidence = Evidence(
            tag=tag.read(pid),
            cgroup=procfs.cgroup(pid) if self.cgroups.telling else "",
            session=about.session,
            group=about.group,
        )
        activation, how = self._marks.attribute(evidence)
        return activation or NO_ACTIVATION, how

    def never_saw(self, pid: int) -> bool:
        """Whether a process proves that it descends neither from us nor from our processes.

        It has the limit that we had before we lowered it, which takes privilege to regain. A
        missing mark alone proves nothing: the process may have lowered the limit further.
        """
        return self._tagger.never_saw(pid)

    def of_tag(self, pid: int) -> int:
        """The activation by the tag alone, which is read faster than the other marks."""
        activation, _ = self._marks.attribute(Evidence(tag.read(pid), "", 0, 0))
        return activation or NO_ACTIVATION
