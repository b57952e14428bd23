"""Times, sizes and exits in words."""

from __future__ import annotations

import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli import exits, words
from broker.core.exits import CLD_DUMPED, CLD_EXITED, CLD_KILLED

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("usec", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (999_999, "0s"),
        (SECOND, "1s"),
        (59 * SECOND, "59s"),
        (60 * SECOND, "1min"),
        (125 * SECOND, "2min 5s"),
        (3600 * SECOND, "1h"),
        (86399 * SECOND, "23h 59min"),
        (3 * 86400 * SECOND + 4 * 3600 * SECOND, "3d 4h"),
    ],
)
def test_long_spans(usec: int, text: str) -> None:
    assert words.long_span(usec) == text


@pytest.mark.parametrize(
    ("usec", "text"),
    [
        (0, "0us"),
        (999, "999us"),
        (1000, "1ms"),
        (11_499, "11ms"),
        (999_999, "999ms"),
        (1_204_000, "1.204s"),
        (61 * SECOND, "1min 1s"),
    ],
)
def test_spans(usec: int, text: str) -> None:
    assert words.span(usec) == text


def test_ago() -> None:
    assert words.ago(0) == "-"
    now = time.time_ns() // 1000
    assert words.ago(now - 90 * SECOND) == "1min 30s ago"
    # A clock that was set back.
    assert words.ago(now + 90 * SECOND) == "0s ago"


def test_a_moment_of_another_day_has_its_date() -> None:
    now = time.time_ns() // 1000
    assert words.moment(now) == time.strftime("%H:%M:%S", time.localtime(now // SECOND))
    assert words.moment(86400 * 365 * SECOND).startswith("1971-01-0")


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (5_452_595, "5.2M"), (2**40, "1.0T")],
)
def test_sizes(octets: int, text: str) -> None:
    assert words.size(octets) == text


@given(st.integers(0, 2**53))
def test_every_size_is_short(octets: int) -> None:
    assert len(words.size(octets)) <= 9


@pytest.mark.parametrize("status", range(256))
def test_every_status(status: int) -> None:
    assert exits.exit_word(CLD_EXITED, status) == str(status)
    assert exits.exit_words(CLD_EXITED, status) == f"code=exited, status={status}"


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_every_signal(number: int) -> None:
    name = exits.exit_word(CLD_KILLED, number)
    assert name.startswith("SIG")
    assert exits.exit_words(CLD_KILLED, number) == f"code=killed, signal={name[3:]}"
    assert exits.exit_words(CLD_DUMPED, number) == f"code=dumped, signal={name[3:]}"


def test_no_exit() -> None:
    assert exits.exit_word(0, 0) == "-"
    assert exits.exit_words(0, 0) == "running"
