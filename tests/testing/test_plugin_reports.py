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
