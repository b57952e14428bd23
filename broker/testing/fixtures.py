"""The fixtures, and the factory for these and users' own ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

from broker.testing import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.testing.bus import Bus

Scope = Literal["function", "class", "module", "package", "session"]
# Buses for failure reports: open, or closed by the current teardown.
OPEN: Final = pytest.StashKey[list["Bus"]]()


def bus_fixture(*, scope: Scope = "function", **chosen: Any) -> Any:
    """A fixture with a bus of its own, for a ``conftest.py`` or a test file.

    Args:
        scope: the bus's lifetime, in pytest's words.
        chosen: any of ``Settings``; a marker has precedence.

    Example::

        from broker.testing import bus_fixture

        bus = bus_fixture(scope="module", engine="dbus-daemon", services=["data/dbus-1"])

    Raises:
        pytest.UsageError: a setting does not exist, or has an invalid value.
    """
    settings.changed(settings.Settings(), chosen)

    @pytest.fixture(scope=scope)
    def bus(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Bus]:
        yield from opened(request, tmp_path_factory, chosen)

    return bus


def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any]
) -> Iterator[Bus]:
    """A bus, and after its end the check for leaked processes."""
    from broker.errors import DBusError, Fault  # noqa: PLC0415 - see the package
    from broker.testing.bus import Bus  # noqa: PLC0415
    from broker.testing.survivors import LeakWarning, text  # noqa: PLC0415

    wanted = settings.of_request(request, chosen)
    name = request.fixturename or "bus"
    directory = tmp_path_factory.mktemp(name)
    try:
        bus = Bus.open(name, wanted, directory, root=request.config.rootpath, node=request.node)
    except (Fault, DBusError) as e:
        pytest.fail(f"{name}: {e}", pytrace=False)
    request.config.stash[OPEN].append(bus)
    try:
        yield bus
    finally:
        problem = bus.close()
    if problem:
        _fail(request.session, f"{name}: {problem}")
    if bus.survivors and wanted.leaks == "fail":
        _fail(request.session, text(bus.survivors))
    if bus.survivors and wanted.leaks == "warn":
        warnings.warn(LeakWarning(text(bus.survivors)), stacklevel=1)


def _fail(session: pytest.Session, text: str) -> None:
    """Fail the current teardown.

    After Ctrl-C there is none: pytest ends the fixtures on its way out, and an exception there
    is printed with a traceback of all of pytest.
    """
    if session.exitstatus != pytest.ExitCode.INTERRUPTED:
        pytest.fail(text, pytrace=False)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # not in a worker of xdist's, whose controller is interrupted too
        reporter.write_line(f"\n{text}", red=True)


@pytest.fixture
def dbus_activator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bus]:
    """A message bus for one test, a ``broker.testing.Bus``; its services are the test's alone."""
    yield from opened(request, tmp_path_factory, {})


@pytest.fixture(scope="session")
def dbus_activator_session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bus]:
    """A message bus for the whole run, one for each of xdist's workers."""
    yield from opened(request, tmp_path_factory, {})


@pytest.fixture
def dbus_activator_environ(dbus_activator: Bus, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """The test's bus, with its ``env`` in ``os.environ``: for code that reads the latter."""
    import os  # noqa: PLC0415 - beside its only use

    for name in set(os.environ) - set(dbus_activator.env):
        # pytest's own variable; pytest removes it itself.
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    for name, value in dbus_activator.env.items():
        monkeypatch.setenv(name, value)
    return dbus_activator
