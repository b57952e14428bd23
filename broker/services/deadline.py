"""A deadline that is judged only when all that arrived before it has been read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# In seconds: so long a deadline that is due waits for the bus's answer.
ANSWER_TIMEOUT: Final = 1.0
# In seconds: a timer that fires later than this was missed by this process, which was
# stopped, debugged or swapped out. Its pause says nothing about the bus.
PAUSE: Final = 0.1


class Deadline:
    """One deadline of a service.

    A timer that is due says only that time has passed, perhaps because this process
    stood still meanwhile. What the service did in time may lie unread on a socket, so the
    bus is asked: its answer comes behind all that it had said before, and deaths are read
    while it is waited for. A longer timeout instead would only move the pause that is
    fatal.

    Args:
        seconds: from now until it is due.
        ask: asks the bus, and calls its argument when there is an answer that leaves the
            deadline as it is; None: nothing that the bus says could matter.
        judge: called once, unless it was cancelled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        ask: Callable[[Callable[[], None]], None] | None,
        judge: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._judge = judge
        self._timer = loop.call_later(seconds, self._due)

    @property
    def pending(self) -> bool:
        """Whether it is still to be judged."""
        return not self._timer.cancelled()

    def cancel(self) -> None:
        """What it was for has happened."""
        self._timer.cancel()

    def _due(self) -> None:
        if self._ask is None:
            self._end()
            return
        self._wait()
        self._ask(self._answered)

    def _wait(self) -> None:
        self._timer = self._loop.call_later(ANSWER_TIMEOUT, self._unanswered)

    def _answered(self) -> None:
        if self.pending:
            self._end()

    def _unanswered(self) -> None:
        if self._loop.time() - self._timer.when() > PAUSE:
            self._wait()  # the answer may be here since then, and unread
        else:
            self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._judge()
