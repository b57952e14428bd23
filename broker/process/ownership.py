"""Whether a process comes from one broker, when that broker is no longer there to ask.

A broker's instance, in RLIMIT_RSS, says it alone: no other broker has it. A tag, in
RLIMIT_LOCKS, hardly does: there is a range of them for each 4096th broker. But a service may
lower either (``ulimit -m`` in a script is enough), so where the instance has been
overwritten, the tag counts together with descent: all that a dead broker leaves goes
to one reaper, the guardian with it, and every living broker is itself between its own
processes and that reaper, bearing an instance of its own.

Rejected: a tag as random as the instance (62 bits do not hold that and three levels of
nested brokers), a third limit (all others are enforced), the environment
(setproctitle wipes it out).
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from resource import RLIMIT_RSS
from typing import TYPE_CHECKING, Final

from broker.process import procfs, tag

if TYPE_CHECKING:
    from broker.process.tag import Range

# How often ancestors are looked at, where they do not show whose a process is.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Ownership:
    """The marks of all that one broker starts, and that brokers nested in it start.

    Attributes:
        instance: of the broker; None if it has none.
        tags: that it gives to activations; None if it can give none.
        cgroups: what the paths of its cgroups begin with; empty if it has none.
    """

    instance: Range | None
    tags: Range | None
    cgroups: str

    def __bool__(self) -> bool:
        """Whether there is a mark that tells this broker from every other."""
        return self.instance is not None or bool(self.cgroups)

    def marks(self, pid: int) -> bool:
        """Whether a process bears a mark that no other broker gives."""
        if self.instance is not None and tag.read(pid, RLIMIT_RSS) in self.instance:
            return True
        return bool(self.cgroups) and procfs.cgroup(pid).startswith(self.cgroups)

    def left(self, pid: int) -> bool:
        """The same, or that a process was left by the broker: asked by a child of that one.

        Only once the broker is dead, so that what it has left has our own parent.
        """
        if self.marks(pid):
            return True
        if self.tags is None or self.instance is None or tag.read(pid) not in self.tags:
            return False
        # While its parent ends, its ancestors change between two looks.
        return any(_descends(pid, self.tags, self.instance) for _ in range(_LOOKS))


def _descends(pid: int, tags: Range, own: Range) -> bool:
    """Whether all ancestors bear a tag, up to our own parent or to one with our instance."""
    reaper = os.getppid()
    for each in itertools.chain((pid,), procfs.ancestors(pid)):
        if each == reaper:
            return True
        instance = tag.read(each, RLIMIT_RSS)
        if instance in own:
            return True
        if tag.is_instance(instance) or tag.read(each) not in tags:
            return False
    return False
