"""Command lines split into words, and those that cannot be.

That dbus-daemon does the same is in test_reference.py.
"""

from __future__ import annotations

import contextlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.catalog.exec_line import ExecSyntaxError, split

WORDS = st.text(st.characters(exclude_characters="\0"), max_size=10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/bin/true", ("/bin/true",)),
        ("a b\tc\nd", ("a", "b", "c", "d")),
        ("  a  \t b", ("a", "b")),
        ("''", ("",)),
        ("a '' \"\" b", ("a", "", "", "b")),
        ("'a b'\"c d\"e", ("a bc de",)),
        ("'a\\b$c\"d'", ('a\\b$c"d',)),
        (r'"\$\`\"\\"', ('$`"\\',)),
        (r'"\a\n\ \#"', (r"\a\n\ \#",)),
        ('"a\\\nb"', ("a\nb",)),
        (r"\a\ \'\"\\\$", ("a '\"\\$",)),
        ("a\\\nb", ("ab",)),
        ("a \\\n b", ("a", "b")),
        ("$HOME ~ * a;b|c %u", ("$HOME", "~", "*", "a;b|c", "%u")),
        ("a\u00a0b\u2028c\x0bd\re", ("a\u00a0b\u2028c\x0bd\re",)),
        # Blanks at the end: no empty argument.
        ("a b  ", ("a", "b")),
        ("a\t", ("a",)),
        ("a \\\n", ("a",)),
        # "#" is a comment at the beginning of a word only.
        ("a #b 'c", ("a",)),
        ("a #b\nc", ("a", "c")),
        ("#a\nb", ("b",)),
        ("a\n#\nb", ("a", "b")),
        ("a \\\n#b", ("a",)),
        ("a#b c", ("a#b", "c")),
        ("http://x/#y", ("http://x/#y",)),
        ("''#a", ("#a",)),
        ("a''#b", ("a#b",)),
        ("a\\\n#b", ("a#b",)),
        ("\\#a '#b' \"#c\"", ("#a", "#b", "#c")),
        ("\\ #a", (" #a",)),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert split(text) == words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a 'b", "unclosed single quote"),
        ("a '", "unclosed single quote"),
        ('a "b', "unclosed double quote"),
        ('a "b\\"', "unclosed double quote"),
        ('a "b\\', "unclosed double quote"),
        ("a \\", "nothing follows the backslash at the end"),
        ("", "Exec is empty"),
        (" \t\n", "Exec is empty"),
        ("# a", "Exec is empty"),
        ("\\\n", "Exec is empty"),
        ("a\0b", "contains a NUL, which no argument can"),
    ],
)
def test_errors(text: str, reason: str) -> None:
    with pytest.raises(ExecSyntaxError) as caught:
        split(text)
    assert str(caught.value) == reason


@given(st.lists(WORDS, min_size=1))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert split(shlex.join(words)) == tuple(words)


# In double quotes, with a backslash where one is needed and nowhere else.
@given(st.lists(WORDS, min_size=1))
def test_double_quoted_words_come_back(words: list[str]) -> None:
    special = str.maketrans({char: f"\\{char}" for char in '$`"\\'})
    assert split(" ".join(f'"{word.translate(special)}"' for word in words)) == tuple(words)


# Nothing is lost or invented: each character of a word was in the text.
@given(st.text(st.sampled_from(" \t\n'\"\\#ab$"), max_size=30))
def test_any_text_is_words_or_an_error(text: str) -> None:
    with contextlib.suppress(ExecSyntaxError):
        words = split(text)
        assert words
        assert set("".join(words)) <= set(text)
        assert len("".join(words)) <= len(text)


# A descriptor may be 128 KiB: nothing in it may cost more than its length.
@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", ['"' + "a" * 130_000, '"' + "\\a" * 65_000, "a'b'" * 30_000])
def test_long_text(text: str) -> None:
    with contextlib.suppress(ExecSyntaxError):
        split(text)
