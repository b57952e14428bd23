"""The variables that the activation environment takes, and those that it does not pass on."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.environment import (
    LISTED,
    MAX_TOTAL,
    MAX_VARIABLE,
    PRIVATE,
    QUOTED,
    check_name,
    check_value,
    inherited,
    largest,
    listed,
    loads_code,
    merge,
    parse_assignment,
    quote,
    shorten,
    size,
)
from broker.errors import InvalidArgs, LimitsExceeded

BAD_NAMES = ["", "=", "A=B", "=A", "A=", "A\0", "\0", "A\nB", "\n"]
BAD_VALUES = ["\0", "a\0b", "a\n\0B=c"]

NAMES = st.text(st.characters(exclude_characters="=\0\n"), min_size=1)
VALUES = st.text(st.characters(exclude_characters="\0"))


@pytest.mark.parametrize("name", ["A", "a", "_", "1", "LC_ALL", "with space", "BASH_FUNC_f%%", "ä"])
def test_name_that_execve_can_carry_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name_that_execve_cannot_carry_is_refused_and_quoted(name: str) -> None:
    with pytest.raises(InvalidArgs) as caught:
        check_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("value", ["", "x", "a=b", "=", " ", "\t", "a\r", "a\nB=c", "ä", "$HOME"])
def test_value_is_taken(value: str) -> None:
    check_value("A", value)


@pytest.mark.parametrize("value", BAD_VALUES)
def test_value_with_nul_is_refused_and_quoted(value: str) -> None:
    with pytest.raises(InvalidArgs) as caught:
        check_value("MY_NAME", value)
    assert repr(value) in str(caught.value)
    assert "MY_NAME" in str(caught.value)


def test_assignment_is_split_at_the_first_equals_sign() -> None:
    assert parse_assignment("A=b") == ("A", "b")
    assert parse_assignment("A=b=c") == ("A", "b=c")
    assert parse_assignment("A==") == ("A", "=")


def test_assigned_value_may_be_empty() -> None:
    assert parse_assignment("A=") == ("A", "")


@pytest.mark.parametrize("text", ["", "A", "=", "=b", "A\n=b", "A=\0", "\0=b"])
def test_a_value_that_is_not_an_assignment_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgs):
        parse_assignment(text)


@given(NAMES, VALUES)
def test_every_good_name_and_value_survive_an_assignment(name: str, value: str) -> None:
    assert parse_assignment(f"{name}={value}") == (name, value)


@given(st.text("A=\0\nb"))
def test_assignment_that_is_taken_is_one_that_execve_can_carry(text: str) -> None:
    try:
        name, value = parse_assignment(text)
    except InvalidArgs:
        return
    assert f"{name}={value}" == text
    assert name
    assert "=" not in name
    assert "\n" not in name
    assert "\0" not in text


def test_what_is_private_is_not_handed_down() -> None:
    assert {
        # whose service the broker itself is
        "DBUS_STARTER_ADDRESS",
        "DBUS_STARTER_BUS_TYPE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        # the descriptors that it was given
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        # the socket that it reports to, and what is expected of it there
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    } == PRIVATE


@given(st.dictionaries(st.sampled_from([*sorted(PRIVATE), *string.ascii_uppercase]), VALUES))
def test_all_else_is_handed_down_as_it_is(environ: dict[str, str]) -> None:
    before = dict(environ)
    handed_down = inherited(environ)
    assert handed_down == {name: environ[name] for name in environ.keys() - PRIVATE}
    assert environ == before
    handed_down["NEW"] = "value"
    assert environ == before


def test_names_are_matched_exactly() -> None:
    near = {"NOTIFY_SOCKET_2": "a", "notify_socket": "b", "LISTEN": "c", "DISPLAY": ":0"}
    assert inherited(near) == near


# -- how much ------------------------------------------------------------------


def test_a_variable_may_be_as_long_as_execve_takes() -> None:
    """Its limit counts the whole string and the NUL."""
    check_value("A", "x" * (MAX_VARIABLE - 3))
    with pytest.raises(InvalidArgs, match=f"A has {MAX_VARIABLE + 1} bytes"):
        check_value("A", "x" * (MAX_VARIABLE - 2))
    with pytest.raises(InvalidArgs, match=f"A has {MAX_VARIABLE + 1} bytes"):
        check_value("A", "ä" * (MAX_VARIABLE // 2 - 1))


@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_the_size_is_that_of_the_strings_and_their_pointers(environ: dict[str, str]) -> None:
    strings = {k: f"{k}={v}\0".encode("utf-8", "surrogatepass") for k, v in environ.items()}
    assert size(environ) == sum(len(each) + 8 for each in strings.values())
    assert len(strings[largest(environ)]) == max(map(len, strings.values()))


def test_the_whole_may_not_grow_beyond_its_limit() -> None:
    before = {f"V{number}": "x" * 100_000 for number in range(10)}
    changes = {"NEW": "y" * (MAX_TOTAL - size(before) - len("NEW=") - 1 - 8)}
    full = merge(before, changes)
    assert (full, size(full)) == (before | changes, MAX_TOTAL)
    with pytest.raises(LimitsExceeded, match=f"have {MAX_TOTAL + 1} bytes"):
        merge(full, {"NEW": full["NEW"] + "y"})
    assert full == before | changes


def test_one_that_was_larger_from_the_start_can_be_changed_but_not_grow() -> None:
    large = {f"V{number}": "x" * 100_000 for number in range(20)}
    assert merge(large, {"V0": "short"})["V0"] == "short"
    with pytest.raises(LimitsExceeded):
        merge(large, {"A": ""})


# -- what is said of it --------------------------------------------------------


@given(st.text())
def test_what_a_client_sent_is_repeated_in_one_line_and_not_at_length(text: str) -> None:
    for said in (quote(text), shorten(text)):
        assert said.isprintable()
        assert len(said) <= 10 * QUOTED + 3


def test_bad_megabytes_are_not_repeated() -> None:
    for bad in ("x" * 10**6, "\n" * 10**6, "=" * 10**6):
        with pytest.raises(InvalidArgs) as caught:
            parse_assignment(bad)
        assert len(str(caught.value)) < 1000
    with pytest.raises(InvalidArgs) as caught:
        check_value("N" * 10**6, "\0" * 10**6)
    assert len(str(caught.value)) < 1000


@given(st.lists(st.text()))
def test_a_list_is_cut_and_counted(texts: list[str]) -> None:
    said = listed(texts)
    assert said[:LISTED] == texts[:LISTED]
    assert said[LISTED:] == ([f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LD_PRELOAD", True),
        ("LD_LIBRARY_PATH", True),
        ("LD_", True),
        ("GCONV_PATH", True),
        ("GLIBC_TUNABLES", True),
        ("PYTHONPATH", True),
        ("PERL5LIB", True),
        ("BASH_ENV", True),
        ("LD", False),
        ("OLD_PRELOAD", False),
        ("ld_preload", False),
        ("PATH", False),
        ("DISPLAY", False),
        ("PYTHONUNBUFFERED", False),
    ],
)
def test_variables_that_make_programs_load_code(name: str, expected: bool) -> None:
    assert loads_code(name) is expected
