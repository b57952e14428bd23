"""Kills all processes of activations, including those that fork faster than we look."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from broker.process import procfs
from broker.process.activations import NO_ACTIVATION
from broker.process.killer import Killer

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.processes import Processes
    from broker.process.activations import Activations

# How often each turn of the loop looks at the newest processes, while some are to be
# killed and new ones appear: some milliseconds.
CHASES: Final = 32


class Kills:
    """Sends SIGKILL to each process found of an activation, from ``begin`` to ``end``.

    Args:
        is_apart: whether a process is a part of the broker, or was inherited.
        is_marked: whether it has a mark that no other broker gives.
    """

    def __init__(
        self,
        processes: Processes,
        activations: Activations,
        is_apart: Callable[[int], bool],
        is_marked: Callable[[int], bool],
    ) -> None:
        self._processes = processes
        self._activations = activations
        self._is_apart = is_apart
        self._is_marked = is_marked
        self._being_killed: set[int] = set()
        self._killer = Killer(self._is_due)

    def begin(self, service: str | None, spared: int | None) -> bool:
        """Kill all of a service's activations, of none's (empty), or all of them (None).

        Args:
            spared: an activation that is left alone.

        Returns:
            whether this is new for any of them.
        """
        before = len(self._being_killed)
        if not service and len(self._processes):
            self._being_killed.add(NO_ACTIVATION)
        for activation in self._activations.of_service(service):
            if activation != spared:
                self._being_killed.add(activation)
                self._activations.kill(activation)
        return len(self._being_killed) > before

    def end(self, activation: int) -> None:
        """The activation is empty."""
        self._being_killed.discard(activation)

    def adopted(self, pid: int, activation: int) -> None:
        """A child of ours was attributed to an activation."""
        if activation in self._being_killed:
            with contextlib.suppress(PermissionError):
                # It keeps its PID until we reap it.
                os.kill(pid, signal.SIGKILL)

    def chase(self) -> None:
        """Kill the processes that were forked just before the kill of their parents."""
        if self._being_killed:
            self._killer.chase(CHASES)
            self._killer.close()  # the event loop waits for the dying

    def close(self) -> None:
        """Close the last descriptor."""
        self._killer.close()

    def _is_due(self, pid: int) -> bool:
        process = self._processes.get(pid)
        if process is not None:
            return process.activation in self._being_killed
        if self._is_apart(pid):
            return False
        # Most targets have a tag, and would be gone before any other mark is read.
        activation = self._activations.of_tag(pid)
        if not (self._is_marked(pid) or procfs.parent(pid) == os.getpid()):
            # Another broker's: its tags may be the same.
            return False
        if activation == NO_ACTIVATION:
            activation, _ = self._activations.attribute(pid)
        return activation in self._being_killed
