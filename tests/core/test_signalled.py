"""What a signal that reaches ``run`` asks for, and whether the command has had it too."""

from __future__ import annotations

import signal

import pytest

from broker.core.signalled import ONE_SIGNAL, Arrival, Insistence


def arrival(
    number: int,
    *,
    by_kernel: bool = True,
    leading: bool = False,
    together: bool = True,
    taken: bool = False,
) -> Arrival:
    """One, by default the terminal's to the group of both."""
    return Arrival(number, by_kernel, leading=leading, together=together, taken=taken)


def test_the_command_has_had_what_the_terminal_sends_to_its_group() -> None:
    assert arrival(signal.SIGINT).had
    assert arrival(signal.SIGINT, leading=True).had
    assert arrival(signal.SIGHUP).had
    # timeout(1) gives itself a group; a leader alone is told of a hangup.
    assert not arrival(signal.SIGINT, together=False).had
    assert not arrival(signal.SIGHUP, together=False).had
    assert not arrival(signal.SIGHUP, leading=True).had


def test_a_signal_of_another_process_has_reached_us_alone() -> None:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        assert not arrival(number, by_kernel=False).had


def test_a_hangup_is_the_kernels() -> None:
    assert arrival(signal.SIGHUP).hangup
    assert not arrival(signal.SIGHUP, by_kernel=False).hangup
    assert not arrival(signal.SIGINT).hangup


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_that_is_passed_on_insists(number: int) -> None:
    assert arrival(number, by_kernel=False, taken=True).insists
    assert arrival(number, together=False, taken=True).insists


def test_what_a_prompt_handles_itself_does_not_insist() -> None:
    assert not arrival(signal.SIGINT, taken=True).insists
    assert arrival(signal.SIGINT).insists


def test_a_reload_does_not_insist_nor_does_a_message() -> None:
    assert not arrival(signal.SIGHUP, by_kernel=False, taken=True).insists
    assert arrival(signal.SIGHUP, by_kernel=False).insists
    assert not arrival(signal.SIGHUP).insists
    assert not arrival(signal.SIGUSR1, by_kernel=False).insists


def test_the_second_of_a_kind_forces_the_end_however_late() -> None:
    insistence = Insistence()
    assert insistence.again(signal.SIGINT, 10.0, grace=5.0) is None
    assert insistence.again(signal.SIGTERM, 11.0, grace=5.0) is None
    assert insistence.again(signal.SIGINT, 10.0 + 2 * ONE_SIGNAL, grace=5.0) == 0
    assert insistence.again(signal.SIGTERM, 100_000.0, grace=5.0) == 0


def test_one_signal_that_comes_two_ways_leaves_the_command_its_time() -> None:
    """``timeout 5 dbus-activator run …``: to its child, and to the group of both."""
    insistence = Insistence()
    assert insistence.again(signal.SIGTERM, 10.0, grace=5.0) is None
    assert insistence.again(signal.SIGTERM, 10.0 + ONE_SIGNAL / 2, grace=5.0) == 5.0
    assert insistence.again(signal.SIGTERM, 10.0 + ONE_SIGNAL / 2, grace=0.0) == 0
    assert insistence.again(signal.SIGTERM, 10.3, grace=5.0) == 0
