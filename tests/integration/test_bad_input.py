"""A broken descriptor, or a bad assignment, costs itself alone."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError

if TYPE_CHECKING:
    from tests.integration.buses import Place

pytestmark = pytest.mark.asyncio

GOOD = "org.activation.Test.Good"
HEAD = "[D-BUS Service]\n"


async def test_broken_descriptors_are_named_and_the_good_one_works(place: Place) -> None:
    services = place.services
    place.add(GOOD)
    place.write("services/badname.service", f"{HEAD}Name=bad..name\nExec=/bin/true\n")
    place.write("services/noexec.service", f"{HEAD}Name=org.x.NoExec\n")
    place.write("services/quotes.service", f"{HEAD}Name=org.x.Quotes\nExec=/bin/sh 'open\n")
    place.write(
        "services/latin.service", f"{HEAD}Name=org.x.Latin\nExec=/bin/\xe9\n".encode("latin1")
    )
    place.write("services/large.service", f"{HEAD}Name=org.x.Large\nExec=/bin/true\n" + "#" * 10**7)
    os.mkfifo(services / "fifo.service")
    (services / "directory.service").mkdir()
    place.write("services/zz.service", f"{HEAD}Name={GOOD}\nExec=/bin/false\n")
    async with place.serve() as bus:
        assert await bus.echo(GOOD) == "hello"
        (names,) = await bus.client.bus.call_bus("ListActivatableNames")
        assert [name for name in names if name.startswith("org.x.")] == []
        bus.kill(signal.SIGTERM)
        said = (await bus.ended()).splitlines()
    wanted = [
        ("badname.service", ":2: "),
        ("noexec.service", ""),
        ("quotes.service", ":3: "),
        ("latin.service", ":3: "),
        ("large.service", ""),
        ("fifo.service", ""),
        ("directory.service", ""),
    ]
    for file, line in wanted:
        (complaint,) = [each for each in said if file in each]
        assert complaint.startswith("dbus-activator: ")
        assert f"{services}/{file}{line}" in complaint
    assert len(said) == len(wanted)


async def test_two_directories_with_one_name_the_first_wins_and_knows_the_other(
    place: Place,
) -> None:
    place.add(GOOD)
    second = place.path / "second"
    second.mkdir(mode=0o755)
    place.write(f"second/{GOOD}.service", f"{HEAD}Name={GOOD}\nExec=/bin/false\n")
    async with place.serve(f"--services={second}") as bus:
        assert await bus.echo(GOOD) == "hello"
        await bus.client.call("Reload")
        assert await bus.get(GOOD, "Shadowed") == [str(second / f"{GOOD}.service")]
        bus.kill(signal.SIGTERM)
        assert await bus.ended() == ""


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/nonexistent", "No such file or directory"),
        ("{0}/plain", "Permission denied"),
        ("{0}/script", "Exec format error"),
        ("{0}", "Permission denied"),
    ],
)
async def test_programs_that_cannot_be_executed(place: Place, command: str, reason: str) -> None:
    place.write("plain", "#!/bin/sh\n", mode=0o644)
    place.write("script", "echo no interpreter is named\n")
    place.add(GOOD)
    place.add("org.x.Bad", command.format(place.path))
    async with place.serve() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", "org.x.Bad")
        assert caught.value.name == "org.freedesktop.DBus.Error.Spawn.ExecFailed"
        assert reason in str(caught.value)
        assert command.format(place.path) in str(caught.value)
        assert await bus.get("org.x.Bad", "Result") == "exec-failed"
        assert await bus.echo(GOOD) == "hello"


async def test_bad_assignments_change_nothing(place: Place) -> None:
    place.add(GOOD)
    async with place.serve() as bus:
        for bad in ("no equals sign", "=value", "TWO\nLINES=value", ""):
            with pytest.raises(RemoteError) as caught:
                await bus.client.call("SetEnvironment", "as", ["FINE=yes", bad])
            assert caught.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
        environment = await bus.call(GOOD, "Environment")
        assert [entry for entry in environment if entry.startswith("FINE=")] == []


async def test_update_activation_environment_is_filtered(place: Place) -> None:
    place.add(GOOD)
    async with place.serve() as bus:
        changes = {"GOOD": "1", "": "empty", "WITH=EQUALS": "2", "TWO\nLINES": "x", "AFTER": "3"}
        await bus.client.bus.call_bus("UpdateActivationEnvironment", "a{ss}", [changes])
        environment = await bus.call(GOOD, "Environment")
        assert {"GOOD=1", "AFTER=3"} <= set(environment)
        assert not [entry for entry in environment if entry.startswith(("=", "TWO", "LINES"))]
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
    assert r"not the name of an environment variable: 'TWO\nLINES'" in said
    assert "UpdateActivationEnvironment: not the name of an environment variable: ''" in said
