"""The soak in its short form: the same load and checks, for seconds rather than minutes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.integration.pairs import on_one
from tests.soak.report import report
from tests.soak.soak import Plan, Soak

if TYPE_CHECKING:
    from tests.integration.buses import Place

# The records of ended processes, 16 a service, still fill in the first seconds: a
# fifth is not yet a leak. What has no bound shows in a long run (tests/soak).
GROWTH = 1.2


@on_one()
@pytest.mark.asyncio
@pytest.mark.timeout(180)
async def test_a_random_load_leaves_nothing_behind(place: Place) -> None:
    # Another one each time; it is in the report that pytest shows with a failure.
    seed = int.from_bytes(os.urandom(4))
    soak = Soak(place, Plan(seconds=8, warm_up=3, growth=GROWTH, seed=seed, floods=False))
    await soak.run()
    print(report(f"{place.engine}, seed {seed}", soak))  # noqa: T201
    assert [check for check, problems in soak.record.failures.items() if problems] == []
