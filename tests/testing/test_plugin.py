"""The plugin in projects of its own: fixtures, settings, and no harm done elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from broker import __version__
from broker.process import procfs
from tests.testing.conftest import INI, run

# -- harmless where it is not used -------------------------------------------------------


def test_it_is_loaded_by_its_entry_point(project: pytest.Pytester) -> None:
    result = run(project, "def test_nothing(pytestconfig): pass")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"dbus-activator: {__version__}, engine dbus-broker *"])
    result = project.runpytest_inprocess("--dbus-activator-engine=dbus-daemon")
    result.stdout.fnmatch_lines([f"dbus-activator: {__version__}, engine dbus-daemon 1.*"])


def test_a_run_without_a_bus_imports_nothing_of_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing():
            ours = {name for name in sys.modules if name.partition(".")[0] == "broker"}
            assert ours == {
                "broker", "broker.testing", "broker.testing.plugin",
                "broker.testing.fixtures", "broker.testing.settings",
            }
            assert not {"click", "dbus_next"} & set(sys.modules)
        """
    )
    # -q shows no header. Without pytest-asyncio, whose users need asyncio anyway.
    project.makeini(INI.replace("asyncio_default_fixture_loop_scope = function", ""))
    result = project.runpytest_subprocess("-q", "-p", "no:asyncio")
    result.assert_outcomes(passed=1)


def test_without_an_engine_a_run_says_so_and_goes_on(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = run(project, "def test_one(): pass\ndef test_two(dbus_activator): pass")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [f"dbus-activator: {__version__}, no engine installed (auto)", "*no message bus found*"]
    )


# -- fixtures ----------------------------------------------------------------------------


def test_one_bus_for_a_test_and_one_for_the_run(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        seen = []

        def test_one(dbus_activator, dbus_activator_session):
            assert dbus_activator.address != dbus_activator_session.address
            seen.append((dbus_activator.address, dbus_activator_session))

        def test_two(dbus_activator, dbus_activator_session):
            assert dbus_activator.address != seen[0][0]
            assert dbus_activator_session is seen[0][1]
            dbus_activator_session.add_faulty("org.example.One", daemonizes=True)
            dbus_activator_session.start("org.example.One")
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_project_makes_its_own_fixtures(project: pytest.Pytester) -> None:
    (project.path / "services").mkdir()
    for name in ("services/a", "b"):
        own = name.partition("/")[2] or name
        text = f"[D-BUS Service]\nName=org.example.{own}\nExec=/bin/sh -c 'exit 3'\n"
        (project.path / f"{name}.service").write_text(text)
    project.makeconftest(
        """
        from broker.testing import bus_fixture

        module_bus = bus_fixture(
            scope="module", engine="dbus-daemon", services=["services", "b.service"],
            activation_timeout=3,
        )
        """
    )
    result = run(
        project,
        """
        def test_one(module_bus):
            assert module_bus.engine.startswith("dbus-daemon")
            assert module_bus.remote.manager()["ActivationTimeoutUSec"] == 3_000_000
            assert module_bus.service("org.example.a").state == "inactive"
            module_bus.service("org.example.b")

        def test_two(module_bus, request):
            assert request.node.parent is module_bus.node
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_factory_refuses_an_unknown_setting() -> None:
    from broker.testing import bus_fixture

    with pytest.raises(pytest.UsageError, match="has no setting 'motor'; there are activation_"):
        bus_fixture(motor="x")
    with pytest.raises(pytest.UsageError, match="dbus_activator_engine: 'x' is not one of auto"):
        bus_fixture(engine="x")


def test_the_environment_can_be_the_processes_own(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_SESSION_ID", "7")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "of another bus")
    before = dict(os.environ)
    result = run(
        project,
        """
        import os

        def test_untouched(dbus_activator):
            assert os.environ["DBUS_SESSION_BUS_ADDRESS"] == "of another bus"

        def test_set(dbus_activator_environ):
            own = dict(os.environ)
            assert own.pop("PYTEST_CURRENT_TEST")
            assert own == {k: v for k, v in dbus_activator_environ.env.items()
                           if k != "PYTEST_CURRENT_TEST"}
            assert "XDG_SESSION_ID" not in own

        def test_untouched_again():
            assert os.environ["XDG_SESSION_ID"] == "7"
        """,
    )
    result.assert_outcomes(passed=3)
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"
    }


# -- settings ----------------------------------------------------------------------------

SHOW = """
    import pytest
    from broker.testing import bus_fixture

    own = bus_fixture(stop_timeout=4)

    def test_default(dbus_activator):
        print("default", dbus_activator.settings.stop_timeout)

    def test_factory(own):
        print("factory", own.settings.stop_timeout)

    @pytest.mark.dbus_activator(stop_timeout=5)
    def test_marker(own):
        print("marker", own.settings.stop_timeout)
"""


def test_the_nearest_word_counts(project: pytest.Pytester) -> None:
    project.makeini(f"{INI}    dbus_activator_stop_timeout = 2\n")
    result = run(project, SHOW, "-s")
    result.stdout.fnmatch_lines(["*default 2.0", "*factory 4", "*marker 5"])
    result = run(project, SHOW, "-s", "--dbus-activator-stop-timeout=3")
    result.stdout.fnmatch_lines(["*default 3.0", "*factory 4", "*marker 5"])
    assert result.ret == 0


SETTINGS = {
    "engine": "dbus-daemon",
    "services": "services",
    "installed": "org.example.Host",
    "environ": "ONE=1",
    "leaks": "kill",
    "leak_grace": "0.25",
    "ignore_leak": "gvfs*",
    "activation_timeout": "7",
    "stop_timeout": "3",
    "artifacts": "artifacts",
}
CHECK = """
    from pathlib import Path

    def test_all(dbus_activator):
        from broker.testing import Settings

        assert dbus_activator.settings == Settings(
            engine="dbus-daemon", services=SERVICES, installed=INSTALLED, environ={"ONE": "1"},
            leaks="kill", leak_grace=0.25, activation_timeout=7, stop_timeout=3,
            artifacts=Path("artifacts"), ignore_leak=("gvfs*",),
        )
        assert dbus_activator.engine.startswith("dbus-daemon")
        assert dbus_activator.env["ONE"] == "1"
        dbus_activator.service("org.example.Host")
        dbus_activator.service("org.example.Own")
        manager = dbus_activator.remote.manager()
        assert manager["StopTimeoutUSec"] == 3_000_000
"""


@pytest.fixture
def host(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a descriptor of its own, and one that is installed."""
    for directory, name in (("services", "Own"), ("share/dbus-1/services", "Host")):
        (project.path / directory).mkdir(parents=True)
        text = f"[D-BUS Service]\nName=org.example.{name}\nExec=/bin/false\n"
        (project.path / directory / f"org.example.{name}.service").write_text(text)
    monkeypatch.setenv("XDG_DATA_HOME", str(project.path / "share"))
    return project


@pytest.mark.parametrize("way", ["ini", "option"])
def test_every_setting_has_a_line_and_an_option(host: pytest.Pytester, way: str) -> None:
    options = []
    if way == "ini":
        lines = "".join(f"    dbus_activator_{key} = {each}\n" for key, each in SETTINGS.items())
        host.makeini(INI + lines)
    else:
        options = [
            f"--dbus-activator-{key.replace('_', '-')}={each}" for key, each in SETTINGS.items()
        ]
    text = CHECK.replace("SERVICES", "('services',)").replace("INSTALLED", "('org.example.Host',)")
    run(host, text, *options).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--dbus-activator-engine=x",
            "*dbus_activator_engine: 'x' is not one of auto, dbus-broker*",
        ),
        ("--dbus-activator-leaks=x", "*dbus_activator_leaks: 'x' is not one of fail, warn, kill*"),
        ("--dbus-activator-environ=x", "*dbus_activator_environ: 'x' is not NAME=value*"),
        ("--dbus-activator-stop-timeout=x", "*dbus_activator_stop_timeout: could not convert*"),
    ],
)
def test_bad_settings_are_refused_before_any_test(
    project: pytest.Pytester, option: str, message: str
) -> None:
    result = run(project, "def test_nothing(): pass", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("motor=1", "*dbus_activator has no setting 'motor'*"),
        ("1", "*the marker dbus_activator takes named arguments*"),
        ("services=['absent']", "*--services: *absent: no such directory*"),
        ("installed=['org.example.Absent']", "*org.example.Absent is not installed*"),
    ],
)
def test_bad_markers_are_errors_of_their_test(
    project: pytest.Pytester, marker: str, message: str
) -> None:
    text = f"""
        import pytest

        @pytest.mark.dbus_activator({marker})
        def test_marked(dbus_activator): pass
    """
    result = run(project, text)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_the_marker_is_explained(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.dbus_activator(engine, services, installed, *"])


# -- asynchronous tests ------------------------------------------------------------------

ASYNC = """
    import asyncio
    import pytest
    from broker.testing import StartError

    pytestmark = pytest.mark.asyncio

    async def test_waiting_stops_no_loop(dbus_activator_async, dbus_activator):
        bus = dbus_activator_async
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        assert bus.bus is dbus_activator
        dbus_activator.add_faulty("org.example.One", delay=0.2)
        service = await bus.start("org.example.One")
        assert service.state == "active"
        assert ticks > 10
        with pytest.raises(TimeoutError, match="still active"):
            await bus.wait("org.example.One", timeout=0.1)
        await bus.stop("org.example.One")
        assert await bus.wait("org.example.One") == -15
        ticking.cancel()

    async def test_failures(dbus_activator_async):
        bus = dbus_activator_async
        bus.bus.add_faulty("org.example.One", exits=3)
        bus.bus.add_faulty("org.example.Two", hangs=True)
        with pytest.raises(StartError, match="status 3"):
            await bus.start("org.example.One")
        with pytest.raises(StartError, match="not taken its name within 0.1 s"):
            await bus.start("org.example.Two", timeout=0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bus.start("org.example.Two")
        await bus.stop("org.example.Two")

    # From dbus-next itself, with Python 3.13.
    @pytest.mark.filterwarnings("ignore:'typing.no_type_check_decorator':DeprecationWarning")
    async def test_dbus_next(dbus_activator_connection, dbus_activator):
        from dbus_next.aio import MessageBus
        from dbus_next.service import ServiceInterface, method

        class Echo(ServiceInterface):
            @method()
            def Echo(self, text: "s") -> "s":
                return text

        bus = dbus_activator_connection
        assert isinstance(bus, MessageBus) and bus.connected
        bus.export("/", Echo("org.example.Echo"))
        await bus.request_name("org.example.Echo")
        answer = await asyncio.to_thread(
            dbus_activator.call, "org.example.Echo", "/", "org.example.Echo", "Echo", "s", "hi")
        assert answer == ["hi"]
"""


def test_asynchronous_tests(project: pytest.Pytester) -> None:
    run(project, ASYNC).assert_outcomes(passed=3)


def test_without_pytest_asyncio_its_fixtures_are_not_there(project: pytest.Pytester) -> None:
    project.makeini(INI.replace("asyncio_default_fixture_loop_scope = function", ""))
    project.makepyfile(
        """
        def test_plain(dbus_activator):
            dbus_activator.add_faulty("org.example.One", daemonizes=True)
            dbus_activator.start("org.example.One")

        def test_connection(dbus_activator_connection):
            pass
        """
    )
    result = project.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'dbus_activator_connection' not found"])


# -- many at once ------------------------------------------------------------------------


def test_workers_do_not_meet(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        # One name for all of them, and what each leaves is its own to see.
        @pytest.mark.parametrize("number", range(12))
        def test_one(dbus_activator, dbus_activator_session, number):
            for bus in (dbus_activator, dbus_activator_session):
                bus.add_faulty("org.example.One", daemonizes=True)
                bus.start("org.example.One").pid
                bus.assert_activated("org.example.One")
                bus.assert_no_leaks()
            dbus_activator.assert_activated("org.example.One", times=1)
            with open("addresses", "a") as file:
                file.write(f"{dbus_activator.address} {dbus_activator_session.address}\\n")
            call = ("GetConnectionUnixProcessID", "s", "org.activation.Broker1")
            with open("brokers", "a") as file:
                for bus in (dbus_activator, dbus_activator_session):
                    print(*bus.remote.bus.call_bus(*call), file=file)
                    print(bus.service("org.example.One").pid, file=file)
            dbus_activator_session.reset()
        """
    )
    result = project.runpytest_subprocess("-n", "3")
    result.assert_outcomes(passed=12)
    lines = (project.path / "addresses").read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 12
    assert len({line.split()[1] for line in lines}) == 3
    pids = [int(word) for word in (project.path / "brokers").read_text().split()]
    assert len(pids) == 48
    assert [pid for pid in pids if procfs.alive(pid)] == []


def test_the_plugin_costs_a_run_next_to_nothing() -> None:
    # By what it imports, not by time: pytest has all of it already.
    code = (
        "import sys, pytest; before = set(sys.modules); import broker.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd="/"
    )
    assert [name for name in done.stdout.split() if not name.startswith("broker")] == []
