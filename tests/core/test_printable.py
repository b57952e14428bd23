"""Any text at all becomes one line that can be written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.printable import printable, quoted


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
