"""Signatures and values of every type of D-Bus, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from broker.bus.codec import Variant
from tests.bus import wire

BASIC: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 0xFF),
    "b": st.booleans(),
    "n": st.integers(-(2**15), 2**15 - 1),
    "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(allow_nan=False),
    "s": st.text(),
    "o": st.sampled_from(["/", "/a", "/org/example/A_1"]),
    "g": st.sampled_from(["", "s", "a{sv}", "(iu)ay"]),
}


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        inner.map(lambda kind: "a" + kind),
        st.lists(inner, min_size=1, max_size=3).map(lambda kinds: f"({''.join(kinds)})"),
        st.tuples(st.sampled_from(sorted(BASIC)), inner).map(lambda kv: f"a{{{kv[0]}{kv[1]}}}"),
    )


SIGNATURES = st.recursive(st.sampled_from([*BASIC, "v"]), _containers, max_leaves=5)


def values(kind: str) -> st.SearchStrategy[Any]:
    """Values of one complete type, as dbus-next has them."""
    if kind in BASIC:
        return BASIC[kind]
    if kind == "v":
        # Shallow ones; nesting has its own test.
        return st.sampled_from(["s", "u", "ay", "as", "a{sv}", "(bt)"]).flatmap(
            lambda inner: values(inner).map(lambda value: Variant(inner, value))
        )
    if kind == "ay":
        return st.binary(max_size=20)
    if kind[0] == "(":
        return st.tuples(*map(values, wire.types(kind[1:-1]))).map(list)
    if kind[1] == "{":
        key, value = wire.types(kind[2:-1])
        return st.dictionaries(values(key), values(value), max_size=3)
    return st.lists(values(kind[1:]), max_size=3)


BODIES = st.lists(SIGNATURES, max_size=3).flatmap(
    lambda kinds: st.tuples(st.just("".join(kinds)), st.tuples(*map(values, kinds)).map(list))
)
