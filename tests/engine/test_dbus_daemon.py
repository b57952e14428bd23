"""What is sent to dbus-daemon: an error name that is not valid would abort it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_dbus_broker import outcomes

if TYPE_CHECKING:
    from broker.errors import Outcome


@pytest.mark.parametrize("outcome", outcomes())
def test_every_error_name_is_valid(outcome: type[Outcome]) -> None:
    assert re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", outcome.dbus_name, re.ASCII)
    assert len(outcome.dbus_name) <= 255
