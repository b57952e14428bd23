"""The start limit: refuses a start after too many failures in too short a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class StartLimit:
    """The newest failed activations of one service.

    Only failed activations count, where systemd counts starts: a service that exits when idle
    may be started as often as it is wanted. A service that crashed after it had its name does
    not count either: one client's request may have caused it, and others are served well.

    Attributes:
        burst: the number of failures within the interval that closes the gate; 0 for never.
        interval: in microseconds.
    """

    burst: int
    interval: int
    _failures: deque[int] = field(default_factory=deque)

    def failed(self, now: int) -> None:
        """Count a failure; ``now`` in microseconds of the monotonic clock."""
        self._failures.append(now)
        while len(self._failures) > self.burst:
            self._failures.popleft()

    def hit(self, now: int) -> bool:
        """Whether to refuse a start now; the gate opens again as failures get old."""
        while self._failures and self._failures[0] <= now - self.interval:
            self._failures.popleft()
        return 0 < self.burst <= len(self._failures)

    def reset(self) -> None:
        """Forget every failure."""
        self._failures.clear()
