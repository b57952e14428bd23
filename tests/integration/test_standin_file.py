"""In dbus-daemon's place: what its file says, and an engine that is never the broker itself."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from broker.bus.blocking import BlockingConnection
from broker.errors import DBusError
from tests.integration.buses import TEST, without_the_hosts
from tests.integration.standin import NAME, OPEN, bus, config, environ, refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Place

pytestmark = pytest.mark.square

OTHER = f"{TEST}.Other"
BAD = f"{TEST}.Bad"
# Debian's, in short: what is not named is forbidden.
SYSTEM = """
<type>system</type>
<policy context="default">
  <allow user="*"/><deny own="*"/><deny send_type="method_call"/>
  <allow send_type="signal"/>
  <allow send_requested_reply="true" send_type="method_return"/>
  <allow send_requested_reply="true" send_type="error"/>
  <allow receive_type="method_call"/><allow receive_type="method_return"/>
  <allow receive_type="error"/><allow receive_type="signal"/>
  <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  <deny send_destination="org.freedesktop.DBus"
        send_interface="org.freedesktop.systemd1.Activator"/>
</policy>
"""


# -- the engine is never ourselves ---------------------------------------------------------

WRAPPERS = {
    "hands its arguments on": 'exec {0} "$@"',
    "knows better": "exec {0} serve --print-address",
    "has another environment": 'exec /usr/bin/env -i PATH=$PATH {0} "$@"',
}


@pytest.mark.parametrize("script", WRAPPERS.values(), ids=WRAPPERS)
def test_a_script_that_leads_back_to_us(place: Place, link: Path, script: str) -> None:
    link.unlink()
    place.write("link/dbus-daemon", f"#!/bin/sh\n{script.format(place.user.command)}\n")
    done = place.user.run(
        [place.user.command, "serve", "--engine=dbus-daemon", "--address=unix:dir=/tmp"],
        env=environ(place, PATH=f"{place.path}/link:{place.path}/engines"),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"dbus-activator: {link} is no ")
    assert "leads back to" in done.stderr
    assert "Traceback" not in done.stderr


# -- what the file says ---------------------------------------------------------------------


def test_a_name_that_the_policy_forbids(place: Place, link: Path) -> None:
    place.add(NAME)
    place.add(OTHER)
    rule = f'<policy context="default">\n<deny own="{OTHER}"/></policy>'
    file = config(place, "", f"{OPEN}{rule}")
    if place.engine == "dbus-broker":
        # It cannot be given the rule, and the other engine is not in PATH.
        status, said = refused(place, link, f"--config-file={file}")
        assert status == 5
        assert f"which the rule in {file}:8 needs" in said
        done = place.run("true", options=[f"--config-file={file}"])
        assert done.returncode == 127
        assert done.stderr.startswith(
            f"dbus-activator: {file}:8: dbus-broker cannot apply this rule"
        )
        return
    with bus(place, link, f"--config-file={file}") as found:
        assert found.echo() == "hello"
        assert found.echo(OTHER) != "hello"
        assert found.verb("show", OTHER, "-p", "Result", "--value") == "exit-code"


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("limit", ["max_completed_connections", "max_connections_per_user"])
def test_a_limit_of_connections_is_the_clients_alone(place: Place, link: Path, limit: str) -> None:
    """As test-dbus-daemon of libdbus has it: three are let in, and the fourth is not."""
    file = config(place, f'<listen>unix:dir=/tmp</listen><limit name="{limit}">3</limit>')
    with bus(place, link, f"--config-file={file}") as found, contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(BlockingConnection.connect(found.address, timeout=10))
        with pytest.raises(DBusError, match="maximum number of active connections"):
            clients.enter_context(BlockingConnection.connect(found.address, timeout=10))


def test_auto_takes_the_engine_that_can_be_given_the_policy(place: Place) -> None:
    file = config(place, "", f'{OPEN}<policy context="default"><deny own="x.y"/></policy>')
    command: list[str | Path] = [
        place.user.command,
        "run",
        f"--config-file={file}",
        "--",
        place.user.command,
    ]
    argv = ["status", "--json=short"]
    done = place.user.run([*command, *argv], env=place.environ())
    assert (done.returncode, done.stderr) == (0, "")
    assert '"Engine":"dbus-daemon ' in done.stdout


def test_a_bus_of_the_system_type(place: Place, link: Path) -> None:
    script = place.write("tell", f"#!/bin/sh\nexport > {place.path}/told\nexit 3\n")
    place.add(NAME, str(script))
    place.add(OTHER)
    file = config(
        place,
        f"<listen>unix:path={place.path}/sys</listen>",
        f'{SYSTEM}<policy context="default"><allow send_destination="{NAME}"/></policy>',
    )
    # Of one that runs as somebody else nothing is started.
    place.add(BAD, str(script), extra="User=games\n")
    if place.engine == "dbus-broker":
        assert refused(place, link, f"--config-file={file}")[0] == 5
        return
    with bus(place, link, f"--config-file={file}") as found:
        # The reason comes through the policy, which allows it to nobody else.
        assert found.echo().endswith(f"Process {NAME} exited with status 3")
        told = (place.path / "told").read_text()
        assert f"DBUS_SYSTEM_BUS_ADDRESS='{found.address}'" in told
        assert "DBUS_STARTER_BUS_TYPE='system'" in told
        assert "DBUS_SESSION_BUS_ADDRESS" not in told
        assert found.verb("show", NAME, "-p", "Result", "--value") == "exit-code"
        said = found.verb("start", BAD)
        assert "is for the user 'games', and the broker does not change to another user" in said
        assert "AccessDenied" in found.echo(OTHER)


def test_other_options_win_over_the_file(place: Place) -> None:
    """``--config-file`` of ``run``: the file's time, its directories, where it listens."""
    place.add(NAME)
    (place.path / "more").mkdir()
    text = (
        f'<limit name="service_start_timeout">1500</limit><listen>unix:path={place.path}/b</listen>'
    )
    file = config(place, text)
    ask = [str(place.user.command), "status", "--json=short"]

    def run(*options: str) -> str:
        command = ["run", f"--engine={place.engine}", f"--config-file={file}"]
        argv: list[str | Path] = [place.user.command, *command, *options, "--", *ask]
        done = place.user.run(argv, env=place.environ())
        assert (done.returncode, without_the_hosts(done.stderr)) == (0, "")
        return str(done.stdout)

    said = run()
    assert f'"BusAddress":"unix:path={place.path}/b,guid=' in said
    assert f'"ServiceDirectories":["{place.services}"]' in said
    assert '"ActivationTimeoutUSec":1500000' in said
    said = run("--activation-timeout=3", f"--services={place.path}/more")
    assert '"ActivationTimeoutUSec":3000000' in said
    assert f'"ServiceDirectories":["{place.path}/more"]' in said
    assert f'"ServiceDirectories":["{place.services}","' in run("--standard-services")


def test_serve_listens_where_the_file_says(place: Place) -> None:
    text = (
        f"<listen>unix:path={place.path}/b</listen>\n<listen>unix:path={place.path}/c</listen><x/>"
    )
    file = config(place, text)
    command: list[str | Path] = [
        place.user.command,
        "serve",
        f"--engine={place.engine}",
        f"--config-file={file}",
    ]
    process = place.user.popen(
        [*command, "--print-address"],
        env=place.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"unix:path={place.path}/b,guid=")
    process.terminate()
    _, said = process.communicate()
    assert said.splitlines() == [
        f"dbus-activator: {file}:3: unknown element <x>",
        f"dbus-activator: {file}:3: not used: only the first <listen> is",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<listen>tcp:host=localhost</listen>", "2: cannot listen on tcp:host=localhost"),
        ("<listen>nonsense</listen>", "2: not a D-Bus address: 'nonsense'"),
        ("<policy/>", "2: <policy> needs one of"),
        ("<include>none</include>", "2: {0}/none: No such file or directory"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "serve"])
def test_a_file_that_cannot_be_used(place: Place, verb: str, text: str, reason: str) -> None:
    file = config(place, text)
    end: dict[str, Any] = {"run": (["--", "true"], 127), "serve": ([], 6)}
    rest, status = end[verb]
    command = [place.user.command, verb, f"--config-file={file}", *rest]
    done = place.user.run(command, env=place.environ())
    assert done.stderr.startswith(f"dbus-activator: {file}:{reason.format(place.path)}")
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == status
