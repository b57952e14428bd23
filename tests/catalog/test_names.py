"""Valid well-known bus names, and texts that only look like one."""

from __future__ import annotations

import pytest

from broker.catalog.names import RESERVED, is_bus_name


@pytest.mark.parametrize(
    "text",
    [
        "a.b",
        "org.freedesktop.DBus",
        "org.example.Echo-1",
        "_._",
        "-.-",
        "A1.B2_3",
        "a." + "b" * 253,
    ],
)
def test_valid(text: str) -> None:
    assert is_bus_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "single",
        ".a.b",
        "a.b.",
        "a..b",
        "1a.b",
        "a.1b",
        ":1.7",
        "a.b:c",
        "a b.c",
        "a.b ",
        " a.b",
        # What a pattern with `$`, `\w` or `\d` takes.
        "a.b\n",
        "a.ü",
        "a.b٣",
        "a.\uff21",
        "a.b\0",
        "a.b\udcff",
        "a/b.c",
        "a." + "b" * 254,
    ],
)
def test_invalid(text: str) -> None:
    assert not is_bus_name(text)


def test_reserved_names_are_names() -> None:
    assert all(is_bus_name(name) for name in RESERVED)
