"""When to refuse a start: too many failed ones in too short a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class StartLimit:
    """The newest failed activations of one service.

    Only these count, where systemd counts starts: a service that ends when idle and is
    wanted again is started as often as that happens. One that has served may have crashed
    by what it was asked, and serves the next one well.

    Attributes:
        burst: so many failures within the interval close the gate; 0 never does.
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
        """Whether a start must be refused now: the gate opens as failures get old."""
        while self._failures and self._failures[0] <= now - self.interval:
            self._failures.popleft()
        return 0 < self.burst <= len(self._failures)

    def reset(self) -> None:
        """Forget every failure."""
        self._failures.clear()
