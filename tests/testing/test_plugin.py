"""The plugin in projects of its own: fixtures, settings, reports, and no harm done elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from broker import __version__
from broker.process import procfs
from tests.testing.conftest import INI

if TYPE_CHECKING:
    from pathlib import Path

LEAKING = """
    def test_leaks(dbus_activator):
        dbus_activator.add_faulty("org.example.One", leaves_child=True)
        dbus_activator.start("org.example.One")
"""


def run(project: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    """A test file in this process's pytest."""
    project.makepyfile(text)
    return project.runpytest_inprocess("-p", "no:cacheprovider", *options)


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


def test_a_factory_refuses_what_is_no_setting() -> None:
    from broker.testing import bus_fixture

    with pytest.raises(pytest.UsageError, match="has no setting 'motor'; there are activation_"):
        bus_fixture(motor="x")
    with pytest.raises(pytest.UsageError, match="dbus_activator_engine: 'x' is none of auto"):
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
            artifacts=Path("artifacts"),
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
        ("--dbus-activator-engine=x", "*dbus_activator_engine: 'x' is none of auto, dbus-broker*"),
        ("--dbus-activator-leaks=x", "*dbus_activator_leaks: 'x' is none of fail, warn, kill*"),
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


# -- leaks -------------------------------------------------------------------------------


def test_a_leak_fails_its_test_and_is_named(project: pytest.Pytester) -> None:
    result = run(project, LEAKING)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks*",
            "*1 process outlived its service:",
            "*  org.example.One  pid * (adopted)  *faulty.py org.example.One leaves_child*",
        ]
    )


def test_a_leak_that_owns_a_name_is_told_by_it(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import pytest
        from broker.testing import StartError

        @pytest.mark.dbus_activator(activation_timeout=5)
        def test_other(dbus_activator):
            dbus_activator.add_faulty("org.example.One", takes="org.example.Other")
            with pytest.raises(StartError):
                dbus_activator.start("org.example.One", timeout=3)
        """,
    )
    result.stdout.fnmatch_lines(["*  org.example.One  pid *owns org.example.Other"])


def test_a_leak_can_be_a_warning(project: pytest.Pytester) -> None:
    project.makeini(INI.replace("filterwarnings = error", ""))
    project.makepyfile(LEAKING)
    result = project.runpytest_subprocess("--dbus-activator-leaks=warn")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*LeakWarning: *1 process outlived its service:"])


def test_a_leak_can_be_nobodys_business(project: pytest.Pytester) -> None:
    marked = LEAKING.replace(
        "    def", "    import pytest\n\n    @pytest.mark.dbus_activator(leaks='kill')\n    def"
    )
    run(project, marked).assert_outcomes(passed=1)


def test_what_is_about_to_end_is_no_leak(project: pytest.Pytester) -> None:
    slow = """
        import pytest

        @pytest.mark.dbus_activator(leak_grace={grace})
        def test_late(dbus_activator):
            dbus_activator.add_script("org.example.One", "(setsid sleep 1.5 &); exit 0")
            with pytest.raises(Exception, match="within"):
                dbus_activator.start("org.example.One", timeout=0.5)
    """
    run(project, slow.format(grace=20)).assert_outcomes(passed=1)
    run(project, slow.format(grace=0)).assert_outcomes(passed=1, errors=1)


# -- reports -----------------------------------------------------------------------------

FAILING = """
    import pytest

    def test_fails(dbus_activator):
        dbus_activator.add_script("org.example.One", "echo cannot open /var/db >&2; exit 3")
        dbus_activator.start("org.example.One")

    def test_passes(dbus_activator):
        dbus_activator.add_faulty("org.example.Two", daemonizes=True)
        dbus_activator.start("org.example.Two")
"""


def test_a_failure_shows_services_events_and_messages(project: pytest.Pytester) -> None:
    result = run(project, FAILING)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * Process org.example.One exited with status 3: cannot open /var/db",
            "*- dbus_activator: services -*",
            "dbus-* 1 of 1 services activated",
            "org.example.One: failed (failed), result exit-code",
            "  its main process * exited with status 3",
            "  * (spawned, exited with status 3)  /bin/sh *org.example.One",
            "  | cannot open /var/db",
            "*- dbus_activator: events -*",
            "+0.000s  org.example.One  descriptor added",
            "*s  org.example.One  exited * (code=exited, status=3) *",
            "*s  org.example.One  activation failed: *",
            "*- dbus_activator: the broker's own messages -*",
            "dbus-activator: org.example.One: *",
            "*- dbus_activator: files -*",
            "*/dbus_activator-timeline.svg",
            "*/dbus_activator-events.jsonl",
        ]
    )
    # Nothing of the frames in between: the failure is at the test's own line.
    result.stdout.no_fnmatch_line("*broker/testing/bus.py*")
    result.stdout.no_fnmatch_line("*org.example.Two*")


def artifacts(directory: Path) -> tuple[Path, Path]:
    """The two files of a failed test."""
    (timeline,) = directory.rglob("*-timeline.svg")
    (events,) = directory.rglob("*-events.jsonl")
    return timeline, events


def test_a_failure_leaves_a_timeline_and_its_events(project: pytest.Pytester) -> None:
    base = project.path / "base"
    run(project, FAILING, f"--basetemp={base}").assert_outcomes(passed=1, failed=1)
    timeline, events = artifacts(base)
    root = ET.parse(timeline).getroot()
    assert "org.example.One" in "".join(root.itertext())
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert [each["Event"] for each in found][:2] == ["added", "started"]
    assert {"exited", "activation-failed", "state"} <= {each["Event"] for each in found}
    assert all(each["Time"] > 0 for each in found)


def test_artifacts_have_a_place_of_their_own(project: pytest.Pytester) -> None:
    run(project, FAILING, "--dbus-activator-artifacts=out").assert_outcomes(passed=1, failed=1)
    timeline, _events = artifacts(project.path / "out")
    assert timeline.parent.name.endswith(".py-test_fails")


def test_a_leak_is_in_the_events(project: pytest.Pytester) -> None:
    run(project, LEAKING, "--dbus-activator-artifacts=out")
    _timeline, events = artifacts(project.path / "out")
    last = json.loads(events.read_text().splitlines()[-1])
    assert (last["Event"], last["Service"], last["Names"]) == ("leak", "org.example.One", [])


def test_a_shared_bus_is_shown_by_the_test_that_uses_it(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        def test_uses(dbus_activator_session):
            dbus_activator_session.add_faulty("org.example.One", exits=3)
            assert False

        def test_does_not():
            assert False
        """,
    )
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert text.count("- dbus_activator_session: services -") == 1


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
