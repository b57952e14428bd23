"""Values to bytes, held against dbus-next's own; back, test_wire and test_codec."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from dbus_next._private.marshaller import Marshaller
from hypothesis import given

from broker.bus import marshalling
from broker.bus.codec import Variant
from broker.errors import LimitsExceeded
from tests.bus.generated import BODIES
from tests.bus.test_codec import relaxed


def pairs(value: Any) -> Any:
    """As ours writes it: a variant is a pair."""
    if isinstance(value, Variant):
        return (value.signature, pairs(value.value))
    if isinstance(value, dict):
        return {key: pairs(each) for key, each in value.items()}
    return [pairs(each) for each in value] if isinstance(value, list) else value


@relaxed
@given(BODIES)
def test_every_type_is_written_as_dbus_next_writes_it(content: tuple[str, list[Any]]) -> None:
    signature, arguments = content
    expected = Marshaller(signature, arguments).marshall()
    assert marshalling.body(signature, arguments) == expected
    assert marshalling.body(signature, [pairs(each) for each in arguments]) == expected


def test_an_array_that_the_protocol_does_not_allow_is_refused() -> None:
    assert len(marshalling.body("ay", [bytes(marshalling.MAX_ARRAY)])) == 4 + (1 << 26)
    for signature, value in (("ay", bytes(1)), ("(yay)", [1, bytes(1)])):
        too_long = bytes(marshalling.MAX_ARRAY) + bytes(1)
        body = too_long if signature == "ay" else [1, too_long]
        assert marshalling.body(signature, [value])
        with pytest.raises(LimitsExceeded, match=f"an array of {(1 << 26) + 1} bytes"):
            marshalling.body(signature, [body])


@pytest.mark.parametrize("signature", ["(", "a", "z", "(s", "a{s", "ss)", "a{", "()", "a()"])
def test_an_invalid_signature_is_refused(signature: str) -> None:
    with pytest.raises(ValueError, match="not a signature"):
        marshalling.types(signature)


@pytest.mark.parametrize(
    ("signature", "value"),
    [("u", -1), ("u", 2**32), ("y", 256), ("n", 2**15), ("x", 2**63), ("b", "yes"), ("d", None)],
)
def test_numbers_that_do_not_fit_are_refused(signature: str, value: Any) -> None:
    with pytest.raises(struct.error):
        marshalling.body(signature, [value])


@pytest.mark.parametrize(
    ("signature", "values"),
    [("ss", ["a"]), ("s", ["a", "b"]), ("(ss)", [["a"]]), ("v", [("ss", "a")])],
)
def test_too_many_and_too_few_are_refused(signature: str, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"zip|unpack"):
        marshalling.body(signature, values)


@pytest.mark.parametrize("signature", ["s", "o", "g", "as", "a{ss}"])
def test_a_number_is_no_text(signature: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        marshalling.body(signature, [7])


def test_text_of_the_system_that_is_no_utf8_is_written_as_escapes() -> None:
    assert marshalling.body("s", ["a\udcff\xe4"]) == b"\7\0\0\0a\\xff\xc3\xa4\0"
