"""A deadline that is judged only after everything that arrived before it has been read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# In seconds: how long an expired deadline waits for the bus's answer.
ANSWER_TIMEOUT: Final = 1.0
# In seconds: if a timer fires later than this, this process was stopped, debugged or
# swapped out. That pause says nothing about the bus.
PAUSE: Final = 0.1


class Deadline:
    """One deadline of a service.

    An expired timer says only that time has passed, perhaps while this process stood
    still. The news of a service that was in time may lie unread on a socket. So we ask the
    bus: its answer comes after all its earlier messages, and deaths are read while we wait.
    A longer timeout instead would only need a longer pause to fail a service wrongly.

    Args:
        seconds: from now until it expires.
        ask: asks the bus, and calls its argument after an answer that leaves the deadline
            in force; None if no answer could matter.
        judge: called once, unless the deadline was cancelled.
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
        """Whether it is neither judged nor cancelled."""
        return not self._timer.cancelled()

    def cancel(self) -> None:
        """Drop the deadline: it was met, or does not matter any more."""
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
            self._wait()  # the answer may have arrived meanwhile, unread
        else:
            self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._judge()
