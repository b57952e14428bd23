"""How the broker itself begins: its streams, its signals, its clocks."""

from __future__ import annotations

import itertools
import os
import signal

from broker.core.clock import Instant
from broker.process import clock, procfs
from tests.process.harness import run
from tests.process.scenarios import starting

NULL = "/dev/null"
# si_code of a signal from a process by kill(), and of SIGCHLD for an exit.
SI_USER = 0
CLD_EXITED = 1


def test_closed_standard_streams_become_null() -> None:
    every = [
        list(chosen) for size in range(4) for chosen in itertools.combinations((0, 1, 2), size)
    ]
    found = run(starting.standard_streams, every)
    assert len(found) == 8
    for closed, value in zip(every, found, strict=True):
        paths = [NULL if fd in closed else f"/memfd:ours{fd} (deleted)" for fd in (0, 1, 2)]
        assert value["streams"] == [[path, True, True] for path in paths], closed
        assert value["new"] == []
        assert value["next is none"] is True


def test_signals_are_taken_over() -> None:
    before, after, default = run(starting.taking_over)
    assert before == [signal.SIGUSR2]
    assert after == sorted({signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD})
    assert default is True


def test_signals_are_read_with_their_senders_kind() -> None:
    nothing, first, many, child, inheritable, other = run(starting.reading_signals)
    assert nothing == []
    # The standard ones coalesce and come before the others.
    assert first == [[signal.SIGUSR1, SI_USER], [signal.SIGRTMIN, SI_USER]]
    assert many == [41, True]
    assert child == [[signal.SIGCHLD, CLD_EXITED]]
    assert inheritable is False
    assert other == [[], True]


def test_a_kernel_that_refuses_is_a_fault_with_its_reason() -> None:
    assert run(starting.refusal) == ["signalfd: Too many open files", 1]


def test_the_start_of_a_process_is_known_within_50_ms(child: str) -> None:
    found = run(starting.start_times, child, 20)
    assert len(found) == 20
    for after_early, before_late in itertools.chain.from_iterable(found):
        assert after_early > -0.05
        assert before_late > -0.05


def test_the_clock_does_not_put_a_start_into_the_future() -> None:
    before = clock.now()
    found = clock.of_ticks(1 << 62)
    after = clock.now()
    assert before.monotonic <= found.monotonic <= after.monotonic
    assert isinstance(found, Instant)


def test_what_is_forked_in_a_starts_own_tick_is_not_older_than_it() -> None:
    """The kernel rounds down to a tick; but what it says is older than that is older."""
    beginning = clock.beginning()
    assert clock.of_ticks(beginning.ticks, beginning) == beginning.at
    late = clock.of_ticks(beginning.ticks + 1, beginning)
    assert late.monotonic > beginning.at.monotonic
    own = procfs.stat(os.getpid())
    assert own is not None
    assert clock.of_ticks(own.start_ticks, beginning).monotonic < beginning.at.monotonic - 10_000


def test_what_began_in_one_tick_began_at_one_moment() -> None:
    """However long we take to look at our clocks."""
    ticks = clock.beginning().ticks - 100
    assert len({clock.of_ticks(ticks) for _ in range(1000)}) == 1
