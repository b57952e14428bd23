"""The lease that makes the reader of a file wait until its neighbours are up to date."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.process.harness import run
from tests.process.scenarios import leasing

if TYPE_CHECKING:
    from pathlib import Path


def test_a_reader_waits_and_the_signal_mask_is_put_back(tmp_path: Path) -> None:
    found = run(leasing.gate, str(tmp_path))
    assert found["failures"] == 0
    assert found["found"] == [["text", "told 1"], ["text", "told 2"]]
    assert found["told"] == [False, True]
    assert found["masks"] == [[], [signal.SIGIO], []]
