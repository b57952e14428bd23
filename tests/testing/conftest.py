"""Buses by the plugin that is under test, and projects for pytest to run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.testing import fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.testing import Bus

INI = """
    [pytest]
    addopts = --strict-markers --strict-config
    filterwarnings = error
    asyncio_default_fixture_loop_scope = function
"""


@pytest.fixture(params=["dbus-broker", "dbus-daemon"])
def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus by the plugin, on either engine."""
    yield from fixtures.opened(request, tmp_path_factory, {"engine": request.param})


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A strict project, where pytest runs in this process."""
    pytester.makeini(INI)
    return pytester


def run(project: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    """A test file in this process's pytest."""
    project.makepyfile(text)
    return project.runpytest_inprocess("-p", "no:cacheprovider", *options)
