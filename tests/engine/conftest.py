"""Both engines, and a short place for their sockets."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engine.running import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines; none may be missing."""
    name: str = request.param
    return name


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose path leaves room for a socket's; all that an engine makes is in it."""
    path = Path(tempfile.mkdtemp(prefix="dat-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    left = sorted(str(each.relative_to(path)) for each in path.rglob("*"))
    shutil.rmtree(path)
    assert [each for each in left if each.startswith("dbus-activator-")] == []
