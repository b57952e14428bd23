"""Inherited children: those of a shell that executed us in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Callable


class Inherited:
    """The inherited children: reaped like all others, but of no service, and left alone.

    Args:
        is_ours: whether a process bears our marks; called only if there were such children,
            since their orphans come to us as well.
    """

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        self._pids = set(procfs.children())
        self._any = bool(self._pids)

    def has(self, pid: int) -> bool:
        """Whether a child of ours is inherited, or the orphan of an inherited one."""
        return self._any and (pid in self._pids or not self._is_ours(pid))

    def reaped(self, pid: int) -> None:
        """A child was reaped: its PID may be reused."""
        self._pids.discard(pid)
