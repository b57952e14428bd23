"""Tells whether a process comes from a given broker, after that broker's death.

A broker's instance, in RLIMIT_RSS, proves it alone: no other broker has it. A tag, in
RLIMIT_LOCKS, hardly does: one broker in 4096 has the same range. But a service may lower
either (``ulimit -m`` in a script is enough). So where the instance is overwritten, the tag
counts together with descent: a dead broker's processes, its guardian included, all go to
one reaper, while a living broker stands between its own processes and that reaper, with
an instance of its own.

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

# How often to look at the ancestors, while they do not show a process's origin.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Ownership:
    """The marks of all processes of one broker, and of brokers nested in it.

    Attributes:
        instance: the broker's; None if it has none.
        tags: the tags that it gives to activations; None if it can give none.
        cgroups: the common prefix of its cgroups' paths; empty if it has none.
    """

    instance: Range | None
    tags: Range | None
    cgroups: str

    def __bool__(self) -> bool:
        """Whether it has a mark that no other broker gives."""
        return self.instance is not None or bool(self.cgroups)

    def marks(self, pid: int) -> bool:
        """Whether a process bears a mark that no other broker gives."""
        if self.instance is not None and tag.read(pid, RLIMIT_RSS) in self.instance:
            return True
        return bool(self.cgroups) and procfs.cgroup(pid).startswith(self.cgroups)

    def left(self, pid: int) -> bool:
        """The same, or that the dead broker left the process; called in that broker's child.

        Only after the broker's death, so that its orphans have the same parent as we.
        """
        if self.marks(pid):
            return True
        if self.tags is None or self.instance is None or tag.read(pid) not in self.tags:
            return False
        # While its parent ends, its ancestors change between two looks.
        return any(_descends(pid, self.tags, self.instance) for _ in range(_LOOKS))


def _descends(pid: int, tags: Range, own: Range) -> bool:
    """Whether all ancestors bear a tag, up to our own parent or one with our instance."""
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
