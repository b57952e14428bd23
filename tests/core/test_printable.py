"""Any text at all becomes one line that can be written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.printable import LONGEST, bounded, bounded_words, printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/Größe.service", "/a/Größe.service"),
        ("a\nb", "a\\nb"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\0b", "a\\x00b"),
        ("a\udcffb", "a\\udcffb"),
        ("a\u2028b", "a\\u2028b"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


# All code points, surrogates too, which text() leaves out unless told.
@given(st.text(st.characters(codec=None)))
def test_is_one_line_that_can_be_written(text: str) -> None:
    for shown in (printable(text), quoted(text)):
        shown.encode()
        assert shown.isprintable()


def test_a_long_text_is_cut() -> None:
    assert quoted("a" * 80) == repr("a" * 80)
    assert quoted("a" * 81) == repr("a" * 80) + "…"


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(codec=None, exclude_characters="\0"), max_size=9),
            st.builds(
                lambda char, count: char * count,
                st.sampled_from("xé€😀"),
                st.integers(LONGEST // 4 - 3, LONGEST + 3),
            ),
        )
    )
)
def test_a_command_line_is_kept_or_cut(words: list[str]) -> None:
    shown = bounded_words(words)
    size = len("\0".join(words).encode("utf-8", "backslashreplace"))
    if size <= LONGEST:
        assert shown == tuple(words)
        return
    cut = "\0".join(shown)
    assert LONGEST - 3 <= len(cut.encode()) <= LONGEST  # a character is not cut in two
    assert cut[-1] == "…"
    if "".join(words).isprintable():
        assert "\0".join(words).startswith(cut[:-1])


def test_a_text_is_kept_or_cut() -> None:
    assert bounded("x" * LONGEST) == "x" * LONGEST
    assert bounded("x" * (LONGEST + 1)) == "x" * (LONGEST - 3) + "…"
    assert bounded("") == ""
