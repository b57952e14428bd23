"""Children that our PID had before it became us: a shell's, that executed us in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.process import procfs

if TYPE_CHECKING:
    from collections.abc import Callable


class Inherited:
    """They are reaped like all others, but they are nobody's here, and are left alone.

    Args:
        is_ours: whether a process bears marks of what we have started; asked only where
            there were such children, of which orphans may come to us as well.
    """

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        self._pids = set(procfs.children())
        self._any = bool(self._pids)

    def has(self, pid: int) -> bool:
        """Whether a child of ours is one of them, or an orphan that one has left."""
        return self._any and (pid in self._pids or not self._is_ours(pid))

    def reaped(self, pid: int) -> None:
        """Its PID may be given out again."""
        self._pids.discard(pid)
