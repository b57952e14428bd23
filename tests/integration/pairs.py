"""The pairs of engine and user that the tests run on."""

from __future__ import annotations

import os
from typing import Final

import pytest

ENGINES: Final = ["dbus-broker", "dbus-daemon"]
USERS: Final = ["self", "nobody"] if os.geteuid() == 0 else ["self"]


def on_one(engine: str = "dbus-broker") -> pytest.MarkDecorator:
    """For what takes long by nature: with one pair always, with the others under ``--long``."""
    pairs = [
        pytest.param(
            each, user, marks=[] if (each, user) == (engine, USERS[-1]) else pytest.mark.long
        )
        for each in ENGINES
        for user in USERS
    ]
    return pytest.mark.parametrize(("engine", "user"), pairs, indirect=True)
