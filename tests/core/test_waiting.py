"""The waiters for a name, and the answers that are news to them."""

from __future__ import annotations

from broker.core.waiting import Waiting


def test_a_waiter_that_needs_no_question_is_not_reached_before_those_ahead_of_it() -> None:
    """Else the one that is removed would not be the one that was reached."""
    waiting = Waiting()
    waiting.add("first", ask=True)
    waiting.asked += 1
    waiting.add("second", ask=False)
    assert waiting.take_reached() == ()
    waiting.answered += 1
    assert waiting.take_reached() == ("first", "second")
    assert len(waiting) == 0


def test_a_waiter_that_needs_no_question_is_reached_at_once_behind_nobody() -> None:
    waiting = Waiting()
    waiting.add("first", ask=False)
    waiting.add("second", ask=True)
    assert waiting.needs_question
    assert waiting.take_reached() == ("first",)
    assert len(waiting) == 1
