"""Matches a process to its activation by the marks that it bears, never by a guess.

The broker is the subreaper of every process that it starts, so it adopts their
orphans, and the kernel does not say which service an orphan comes from. Each
activation gets marks before its first instruction runs, and its forks inherit them:

- ``tag``: RLIMIT_LOCKS, a limit that the kernel has not enforced since 2.4.25
  but still inherits, shows for every process, and keeps for a zombie;
- ``cgroup``: a cgroup v2 directory of its own, where no tag can be set.

The environment is no mark: a zombie has none, and a process may overwrite it.
An activation's own session or process group is weaker evidence (a daemon leaves
it) but never wrong while a process of the activation lives: the kernel does not
reuse a PID that is still the number of a session or group.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Origin(enum.StrEnum):
    """How a process became the broker's child."""

    SPAWNED = "spawned"
    ADOPTED = "adopted"


class Attribution(enum.StrEnum):
    """How a process was matched to its service."""

    SPAWNED = "spawned"
    CGROUP = "cgroup"
    TAG = "tag"
    SESSION = "session"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The marks that can be read from a process, alive or a zombie.

    Attributes:
        tag: its hard RLIMIT_LOCKS; None where it cannot be read.
        cgroup: its cgroup v2 path as in /proc/PID/cgroup, without " (deleted)".
    """

    tag: int | None
    cgroup: str
    session: int
    group: int


@dataclass(slots=True)
class Marks:
    """Maps each mark to its activation.

    Attributes:
        stride: the number of tags that an activation owns, from its own downwards:
            a broker nested in it tags within that range.
    """

    stride: int = 0
    _tags: dict[int, int] = field(default_factory=dict)
    _cgroups: dict[str, int] = field(default_factory=dict)
    _leaders: dict[int, int] = field(default_factory=dict)

    def add(self, activation: int, *, tag: int | None, cgroup: str | None) -> None:
        """Note the marks that an activation is about to be started with."""
        if tag is not None:
            self._tags[tag // self.stride] = activation
        if cgroup is not None:
            self._cgroups[cgroup] = activation

    def add_leader(self, activation: int, pid: int) -> None:
        """Note the spawned process, which leads a session of its own."""
        self._leaders[pid] = activation

    def forget(self, activation: int) -> None:
        """Its last process has gone; no process can bear its marks any more."""
        self._tags = {k: v for k, v in self._tags.items() if v != activation}
        self._cgroups = {k: v for k, v in self._cgroups.items() if v != activation}
        self._leaders = {k: v for k, v in self._leaders.items() if v != activation}

    def attribute(self, evidence: Evidence) -> tuple[int | None, Attribution]:
        """The activation of a process, and the mark that proves it."""
        path = evidence.cgroup
        while path and path != "/":
            if path in self._cgroups:
                return self._cgroups[path], Attribution.CGROUP
            path = path.rpartition("/")[0]
        if evidence.tag is not None and self.stride:
            # Tags count down, so an activation's own is the top of its range.
            activation = self._tags.get(-(-evidence.tag // self.stride))
            if activation is not None:
                return activation, Attribution.TAG
        for leader in (evidence.session, evidence.group):
            if leader in self._leaders:
                return self._leaders[leader], Attribution.SESSION
        return None, Attribution.NONE
