"""The plugin's hooks. pytest calls them in every run, so this module imports very little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from broker import __version__
from broker.testing import settings
from broker.testing.fixtures import (
    OPEN,
    dbus_activator,
    dbus_activator_environ,
    dbus_activator_session,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from broker.testing.bus import Bus

__all__ = ["dbus_activator", "dbus_activator_environ", "dbus_activator_session"]

# The timeout of `dbus-broker --version`, which takes some milliseconds. In seconds.
_VERSION_TIMEOUT: Final = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option and a line of the ini file for every setting."""
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the fixtures for users of pytest-asyncio."""
    config.addinivalue_line(
        "markers",
        f"{settings.MARKER}(engine, services, installed, environ, leaks, leak_grace, ignore_leak, "
        "activation_timeout, stop_timeout, artifacts): settings for this test's bus.",
    )
    config.stash[OPEN] = []
    if config.pluginmanager.hasplugin("asyncio"):
        from broker.testing import aio  # noqa: PLC0415 - it needs pytest-asyncio

        config.pluginmanager.register(aio, "dbus_activator_aio")


def pytest_report_header(config: pytest.Config) -> str:
    """Our version, and the engine of a bus; none is started for that."""
    return f"dbus-activator: {__version__}, {_engine(settings.of_config(config).engine)}"


def _engine(wanted: str) -> str:
    import re  # noqa: PLC0415
    import subprocess  # noqa: PLC0415 - pytest -q shows no header and needs neither

    from broker.engine.choose import locate  # noqa: PLC0415
    from broker.errors import EngineMissing  # noqa: PLC0415

    try:
        name, program = locate(wanted)
    except EngineMissing:
        return f"no engine installed ({wanted})"
    try:
        done = subprocess.run(
            [program, "--version"],
            check=False,
            text=True,
            errors="replace",
            capture_output=True,
            timeout=_VERSION_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"engine {name} of unknown version: {e}"
    version = re.search(r"(?:dbus-broker|Daemon) (\S+)", done.stdout)
    return f"engine {name} {version[1] if version else 'of unknown version'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the buses of a failed test to its report."""
    report = yield
    buses = item.config.stash[OPEN]
    if report.failed:
        for bus in buses:
            if _concerns(bus, item, call.when):
                from broker.testing import report as reports  # noqa: PLC0415 - nothing failed yet

                report.sections += reports.sections(bus, item.nodeid)
    if call.when == "teardown":
        buses[:] = [bus for bus in buses if not bus.closed]
    return report


def _concerns(bus: Bus, item: pytest.Item, when: str) -> bool:
    """Whether the test owns or uses a bus, or the bus ended after it."""
    used = getattr(item, "funcargs", None) or {}
    return (
        bus.node is item
        or any(value is bus for value in used.values())
        or (when == "teardown" and bus.closed)
    )
