"""What was started, as what, and the marks by which all that it forks is known."""

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
    """Every activation that has a process left, by its serial: never reused, from 1 on.

    A child is born with the marks that we bear ourselves in that moment, so ``begin``
    comes before the spawn. It is followed by either ``begun`` or ``withdraw``.

    Attributes:
        cgroups: that the activations have, where they have any.
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
        """The tags that what is started can bear; None where there can be none."""
        return self._tagger.range

    @property
    def settled(self) -> bool:
        """Whether nothing was started in this turn of the loop."""
        return not self._cgroup_used

    # -- the beginning and the end of one --------------------------------------

    def begin(self) -> int:
        """Take on the marks of a new one."""
        self._leave_cgroup()
        self._count += 1
        value = self._tagger.advance()
        if value is None and self._tagger.stride and not self._used_up:
            self._used_up = True
            log.warning("no marks are left: the daemons of what is started now will not be known")
        self._marks.add(self._count, tag=value, cgroup=self.cgroups.current)
        return self._count

    def begun(
        self, activation: int, service: str, beginning: clock.Beginning, leader: int | None
    ) -> None:
        """The process that was spawned for a service, or for none, bears its marks.

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
        """Give the cgroup that we wait in to the child that was born in it."""
        if self._cgroup_used:
            self._cgroup_used = False
            self.cgroups.advance()

    def forget(self, activation: int) -> None:
        """Its last process has gone."""
        known = self._activations.pop(activation)
        self._marks.forget(activation)
        if known.cgroup is not None:
            self._leave_cgroup()
            self.cgroups.remove(known.cgroup)

    def kill(self, activation: int) -> None:
        """Kill all of it in one blow, where it has a cgroup."""
        cgroup = self._activations[activation].cgroup
        if cgroup is not None:
            self.cgroups.kill(cgroup)

    def close(self) -> None:
        """Leave the cgroups, when all that was started has ended."""
        self.cgroups.close()

    # -- whose it is -----------------------------------------------------------

    def service(self, activation: int) -> str:
        """The service that it is of; empty for none."""
        known = self._activations.get(activation)
        return known.service if known else ""

    def started(self, activation: int, about: Stat | None) -> Instant:
        """When a process of it was started; of the spawned one ``about`` is None."""
        known = self._activations.get(activation)
        if about is None:
            return known.beginning.at if known else clock.now()
        return clock.of_ticks(about.start_ticks, known.beginning if known else clock.ANY_TIME)

    def of_service(self, service: str | None) -> Iterator[int]:
        """Those of a service, of none (empty), or all (None)."""
        for activation, known in self._activations.items():
            if service is None or known.service == service:
                yield activation

    def attribute(self, pid: int, about: Stat | None = None) -> tuple[int, Attribution]:
        """The activation that any process belongs to, alive or a zombie, and what says so.

        Args:
            about: what ``procfs.stat`` said of it just now.
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
        """Whether a process shows that it comes neither from us nor from what we started.

        It has the limit that we had before we lowered it, which takes privilege to regain;
        a mark that is missing may have been lowered further.
        """
        return self._tagger.never_saw(pid)

    def of_tag(self, pid: int) -> int:
        """What the tag alone says, which is read faster than the rest."""
        activation, _ = self._marks.attribute(Evidence(tag.read(pid), "", 0, 0))
        return activation or NO_ACTIVATION
