"""The same lines, however their bytes come; and nothing in them that drives a terminal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core import lines
from broker.core.lines import LONGEST, MARK, Lines, text

# Runs of one byte, so that lines longer than the longest come up; "é" is two bytes,
# "€" three and an emoji four.
RUNS = st.tuples(
    st.sampled_from([b"\n", b"a", b"\xff", "é".encode(), "€".encode(), "😀".encode()]),
    st.sampled_from([1, 2, 3, LONGEST // 3, LONGEST - 1, LONGEST, LONGEST + 1]),
)
OUTPUTS = st.lists(RUNS, max_size=6).map(lambda runs: b"".join(each * n for each, n in runs))


def fed(*chunks: bytes) -> list[bytes]:
    """The lines of a stream that comes in these chunks."""
    assembled = Lines()
    found = [line for chunk in chunks for line in assembled.feed(chunk)]
    return found + assembled.finish()


@settings(deadline=None)
@given(OUTPUTS, st.lists(st.integers(0, 6 * (LONGEST + 1)), max_size=8))
def test_any_split_gives_the_same_lines(output: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(output)]
    chunks = [output[start:end] for start, end in itertools.pairwise(edges)]
    assert fed(*chunks) == fed(output)


@given(st.binary(max_size=400))
def test_bytes_one_by_one(output: bytes) -> None:
    assert fed(*(bytes([each]) for each in output)) == fed(output)


@settings(deadline=None)
@given(OUTPUTS)
def test_nothing_is_lost_and_no_line_is_too_long(output: bytes) -> None:
    mark = MARK.encode()
    found = fed(output)
    joined = b"".join(
        line.removesuffix(mark) if line.endswith(mark) else line + b"\n" for line in found
    )
    assert joined.rstrip(b"\n") == output.rstrip(b"\n")
    assert max(map(len, found), default=0) <= LONGEST + len(mark)


@given(st.sampled_from("aé€😀"), st.integers(0, 4))
def test_no_character_is_cut(char: str, shift: int) -> None:
    output = ("a" * shift + char * LONGEST).encode()
    assert "".join(text(line).removesuffix(MARK) for line in fed(output)) == output.decode()


def test_bytes_that_are_not_text_are_cut_too() -> None:
    """Bytes that continue a character which has never begun."""
    found = fed(b"\x80" * (3 * LONGEST))
    assert b"".join(line.removesuffix(MARK.encode()) for line in found) == b"\x80" * 3 * LONGEST
    assert len(found) == 4  # of LONGEST - 4, as far as a character's begin is looked for


def test_a_line_of_a_megabyte() -> None:
    found = fed(b"x" * (1 << 20), b"\n", b"next\n")
    assert [len(line) for line in found[:-2]] == [LONGEST + len(MARK.encode())] * 127
    assert found[-2:] == [b"x" * LONGEST, b"next"]


def test_a_line_without_a_newline_is_held_until_the_end() -> None:
    assembled = Lines()
    assert assembled.feed(b"half a") == []
    assert assembled.feed(b" line\nand") == [b"half a line"]
    assert assembled.finish() == [b"and"]
    assert assembled.finish() == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain", "plain"),
        ("Größe €".encode(), "Größe €"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("é".encode()[:1], "\\xc3"),
        (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        (b"a\0b", "a\\x00b"),
        (b"50%\r100%", "50%\\r100%"),
        (b"a\tb", "a\tb"),
        ("Erreur\u00a0: fin".encode(), "Erreur\u00a0: fin"),
        ("a\u202eb\u2028c\u0085d".encode(), "a\\u202eb\\u2028c\\x85d"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_text(line: bytes, shown: str) -> None:
    assert text(line) == shown


@given(st.binary())
def test_any_bytes_are_text_that_can_be_shown(line: bytes) -> None:
    shown = text(line.replace(b"\n", b""))
    shown.encode()
    kept = str.maketrans("", "", lines._KEPT)  # noqa: SLF001 - the characters let through
    assert shown.translate(kept).isprintable()
    assert "\x1b" not in shown
