"""Every way in which a process can end."""

from __future__ import annotations

import signal

import pytest

from broker.core.exits import (
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    CLEAN_SIGNALS,
    UNKNOWN_EXIT,
    Exit,
    Result,
)

SIGNALS = range(1, 65)
CLEAN = {signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM}


def test_codes_are_those_of_waitid() -> None:
    assert (CLD_EXITED, CLD_KILLED, CLD_DUMPED) == (1, 2, 3)


def test_clean_signals_are_those_that_tell_a_daemon_to_stop() -> None:
    assert CLEAN_SIGNALS == CLEAN


@pytest.mark.parametrize("status", range(256))
def test_exit_status(status: int) -> None:
    end = Exit(CLD_EXITED, status)
    assert end.zero == (status == 0)
    assert end.clean == (status == 0)
    assert end.result is (Result.SUCCESS if status == 0 else Result.EXIT_CODE)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal(number: int) -> None:
    end = Exit(CLD_KILLED, number)
    assert not end.zero
    assert end.clean == (number in CLEAN)
    # Asked for only when the end was not clean, or came before the name.
    assert end.result is Result.SIGNAL


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_with_a_core_is_never_clean(number: int) -> None:
    end = Exit(CLD_DUMPED, number)
    assert not end.zero
    assert not end.clean
    assert end.result is Result.CORE_DUMP


def test_end_of_which_nothing_is_known_is_taken_for_a_good_one() -> None:
    assert Exit(0, 0) == UNKNOWN_EXIT
    assert UNKNOWN_EXIT.zero
    assert UNKNOWN_EXIT.clean
    assert UNKNOWN_EXIT.result is Result.SUCCESS


def test_results_are_worded_as_the_interface_says() -> None:
    assert {str(each) for each in Result} == {
        "success",
        "exit-code",
        "signal",
        "core-dump",
        "timeout",
        "protocol",
        "exec-failed",
        "resources",
        "start-limit-hit",
    }
