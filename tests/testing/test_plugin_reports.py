"""What the plugin says of what outlives a test, and of a test that fails."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from tests.testing.conftest import INI, run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LEAKING = """
    def test_leaks(dbus_activator):
        dbus_activator.add_faulty("org.example.One", leaves_child=True)
        dbus_activator.start("org.example.One")
"""


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
        def other():
            from broker.testing import faulty

            bus = faulty.own("org.example.One")
            bus.call_bus("RequestName", "su", "org.example.Other", 0)
            bus.call_bus("ReleaseName", "s", "org.example.One")
            faulty.serve(bus)

        def test_other(dbus_activator):
            service = dbus_activator.add_function("org.example.One", other)
            dbus_activator.start("org.example.One")
            while service.sub_state != "lingering":
                assert dbus_activator.wait(None)
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
        import pytest, shlex
        from broker.testing import faulty

        @pytest.mark.dbus_activator(leak_grace={grace})
        def test_late(dbus_activator):
            service = shlex.join(faulty.command("org.example.One", "delay", 0))
            dbus_activator.add_script("org.example.One", f"(setsid sleep 1.5 &); exec {{service}}")
            dbus_activator.start("org.example.One")
    """
    run(project, slow.format(grace=20)).assert_outcomes(passed=1)
    run(project, slow.format(grace=0)).assert_outcomes(passed=1, errors=1)


def test_a_service_that_is_starting_is_no_leak(project: pytest.Pytester) -> None:
    starting = """
        import pytest
        from broker.testing import ProcessStarted, StartError

        @pytest.mark.dbus_activator(leak_grace=0)
        def test_hangs(dbus_activator):
            dbus_activator.add_faulty("org.example.One", hangs=True)
            with pytest.raises(StartError):
                dbus_activator.start("org.example.One", timeout=0.1)
    """
    run(project, starting).assert_outcomes(passed=1)


def test_a_reset_bus_tells_of_what_was_left_before(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import pytest

        def test_leaks(dbus_activator_session):
            dbus_activator_session.add_faulty("org.example.One", leaves_child=True)
            dbus_activator_session.start("org.example.One")

        def test_resets(dbus_activator_session):
            dbus_activator_session.reset()
            dbus_activator_session.reset()
            (leak,) = dbus_activator_session.leaks()
            assert leak.service == "org.example.One"

        def test_checks(dbus_activator_session):
            dbus_activator_session.assert_no_leaks()

        def test_is_not_to_blame(dbus_activator_session):
            dbus_activator_session.assert_no_leaks()
            dbus_activator_session.add_faulty("org.example.Two", leaves_child=True)
            dbus_activator_session.start("org.example.Two")
            dbus_activator_session.reset()
        """,
    )
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_is_not_to_blame*",
            "1 process outlived its service:",
            "  org.example.Two  pid *",
            "*_ test_checks _*",
            "E *1 process outlived its service:",
            "E *  org.example.One  pid *",
        ]
    )


def test_an_ignored_program_is_no_leak(project: pytest.Pytester) -> None:
    other = LEAKING.replace("test_leaks", "test_leaks_another")
    marked = f"""
    import pytest
    {LEAKING}
    @pytest.mark.dbus_activator(ignore_leak=["sh"])
    {other}
    """
    result = run(project, marked, "--dbus-activator-ignore-leak=pyth*")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks_another*"])


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
