"""The newest lines of a service: within bounds, in order, and none uncounted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.core.clock import Instant
from broker.core.log import LAST_LINES, LAST_WIDTH, MOST_LINES, STDERR, STDOUT, Entry, Log

NOW = Instant(1_700_000_000_000_000, 5)
NAME = "org.test.One"
MOST_BYTES = 40
FEW_LINES = 6


class Model(RuleBasedStateMachine):
    """A log against a list of all that was ever written."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(NAME, MOST_BYTES, FEW_LINES)
        self.all: list[Entry] = []

    @rule(
        lines=st.lists(st.text("aé€😀", max_size=12), max_size=2 * FEW_LINES),
        activation=st.integers(1, 3),
        stream=st.sampled_from([STDOUT, STDERR]),
    )
    def write(self, lines: list[str], activation: int, stream: str) -> None:
        """Lines of one stream."""
        for line in lines:
            self.all.append(Entry(len(self.all) + 1, NOW, activation, stream, line))
        self.log.extend([line.encode() for line in lines], NOW, activation, stream)

    def kept(self) -> list[Entry]:
        """The newest lines that have room."""
        count = size = 0
        for entry in reversed(self.all):
            size += len(entry.text.encode())
            if count == FEW_LINES or size > MOST_BYTES:
                break
            count += 1
        return self.all[len(self.all) - count :]

    @invariant()
    def the_newest_are_kept_in_order(self) -> None:
        kept = self.kept()
        assert self.log.after(0) == (kept, len(self.all) - len(kept))
        assert self.log.last == len(self.all)

    def teardown(self) -> None:
        """Every question there can be, once at the end; the largest number that can be asked."""
        for count in (0, 1, 2**32 - 1):
            assert self.log.after(2**64 - 1, count) == ([], 0)
        kept = self.kept()
        oldest = len(self.all) - len(kept)
        for serial in range(len(self.all) + 2):
            newer = [entry for entry in kept if entry.serial > serial]
            for count in range(1, FEW_LINES + 2):
                assert self.log.after(serial, count) == (newer[-count:], max(0, oldest - serial))

    @invariant()
    def the_last_lines_are_of_one_activation(self) -> None:
        for activation in (1, 2, 3):
            own = [entry.text for entry in self.kept() if entry.activation == activation]
            assert self.log.last_lines(activation) == own


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


def test_a_line_that_has_no_room_is_counted() -> None:
    log = Log(NAME, most_bytes=3)
    log.extend([b"four"], NOW, 1, STDOUT)
    assert log.after(0) == ([], 1)


def test_escapes_count_as_what_they_have_become() -> None:
    log = Log(NAME, most_bytes=7)
    log.extend([b"\xff", b"\xff"], NOW, 1, STDOUT)  # \xff is four characters
    assert [entry.text for entry in log.after(0)[0]] == ["\\xff"]


def test_a_flood_of_empty_lines_is_bounded_too() -> None:
    log = Log(NAME)
    for _ in range(3):
        log.extend([b""] * 50_000, NOW, 1, STDOUT)
    entries, dropped = log.after(0)
    assert (len(entries), dropped) == (MOST_LINES, 150_000 - MOST_LINES)


def test_the_last_words_are_standard_errors() -> None:
    log = Log(NAME)
    assert log.last_words(1) == ""
    log.extend([b"starting", b""], NOW, 1, STDOUT)
    assert log.last_words(1) == "starting"
    log.extend([b"Traceback", b"  it is broken ", b"  "], NOW, 1, STDERR)
    log.extend([b"kept back until the end"], NOW, 1, STDOUT)
    assert log.last_words(1) == "it is broken"
    log.extend([b"y"] * 2 * MOST_LINES, NOW, 1, STDOUT)
    assert log.last_words(1) == "it is broken"
    assert log.last_words(2) == ""


def test_the_last_words_are_the_newest_activations() -> None:
    log = Log(NAME)
    log.extend([b"first"], NOW, 1, STDERR)
    log.extend([b"second"], NOW, 2, STDOUT)
    log.extend([b"an orphan of the first"], NOW, 1, STDERR)
    assert log.last_words(2) == "second"


@given(st.integers(0, 3 * LAST_LINES), st.integers(0, 2 * LAST_WIDTH))
def test_what_is_reported_is_bounded(count: int, width: int) -> None:
    log = Log(NAME)
    log.extend([b"%d" % n + b"x" * width for n in range(count)], NOW, 1, STDERR)
    found = log.last_lines(1)
    assert len(found) == min(count, LAST_LINES)
    assert [int(line.rstrip("x…")) for line in found] == list(range(count))[-LAST_LINES:]
    assert all(len(line) <= LAST_WIDTH + 1 for line in [*found, log.last_words(1)])
    assert all(line.endswith("…") == (len(line) > LAST_WIDTH) for line in found)
