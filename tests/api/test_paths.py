"""Object paths, as the contract gives them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from broker.api import paths


def test_every_byte_but_letters_and_digits_is_escaped() -> None:
    assert paths.of_service("org.example.Echo") == (
        "/org/activation/Broker1/service/org_2eexample_2eEcho"
    )
    assert paths.of_service("a-b_c.D").endswith("/a_2db_5fc_2eD")


@given(st.text(st.sampled_from("abzAZ09_-."), min_size=1), st.text(st.sampled_from("az_2d-.")))
def test_paths_are_valid_and_never_the_same_for_two_names(one: str, two: str) -> None:
    path = paths.of_service(one)
    assert re.fullmatch(r"(/[A-Za-z0-9_]+)+", path)
    assert (path == paths.of_service(two)) == (one == two) or not two
