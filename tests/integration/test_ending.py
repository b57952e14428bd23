"""Whatever a service's processes do, every way to end them leaves none."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.buses import Witness, open_fifo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Place

pytestmark = pytest.mark.square

NAME = "org.activation.Test.One"


@pytest.fixture
def kinds(place: Place) -> str:
    """Of the orphans that a service leaves behind; see service.c."""
    return "hhhset" + "n" * (place.user.uid is None and os.geteuid() == 0)


@pytest.fixture
def witness(place: Place, kinds: str) -> Iterator[Witness]:
    """Of a service that leaves all of them behind, and daemonizes."""
    fifo = place.fifo("held")
    place.add(NAME, f"{place.service} -d -f {fifo} -j {kinds} {NAME}")
    found = Witness(fifo)
    yield found
    found.close()


def check(witness: Witness) -> None:
    """That they were asked first, and were caught: none came to its end."""
    assert witness.heard.count("T") == 1
    assert "x" not in witness.heard


@pytest.mark.asyncio
async def test_stop_service_ends_all_of_it_before_it_returns(
    place: Place, witness: Witness, kinds: str
) -> None:
    async with place.serve("--stop-timeout=2") as bus:
        await bus.echo(NAME)
        await witness.hear(kinds)
        await bus.client.call("StopService", "s", NAME)
        assert witness.at_end()
        assert await bus.get(NAME, "PIDs") == []
    check(witness)


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["Exit", "SIGTERM", "SIGINT"])
async def test_the_end_of_serve_is_the_end_of_all(
    place: Place, witness: Witness, kinds: str, way: str
) -> None:
    async with place.serve("--stop-timeout=2") as bus:
        await bus.echo(NAME)
        await witness.hear(kinds)
        if way == "Exit":
            await bus.client.call("Exit")
            assert witness.at_end()
        else:
            bus.kill(signal.Signals[way])
        await bus.ended()
        assert bus.status == 0
        assert witness.at_end()
    check(witness)


@pytest.mark.asyncio
async def test_the_end_of_run_is_the_end_of_all(place: Place, witness: Witness, kinds: str) -> None:
    go = place.fifo("go")
    script = place.write(
        "command",
        "#!/bin/sh\n"
        f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s hi\n"
        f"read line < {go}\nexit 7\n",
    )
    options = [f"--engine={place.engine}", f"--services={place.services}", "--stop-timeout=2"]
    process = place.user.popen(
        [place.user.command, "run", *options, "--", script],
        env=place.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    await witness.hear(kinds)
    with await open_fifo(go, "w") as gate:
        gate.write("go\n")
    output, _ = await asyncio.to_thread(process.communicate)
    assert (output, process.returncode) == ('s "hi"\n', 7)
    assert witness.at_end()
    check(witness)


@pytest.mark.asyncio
@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
async def test_a_slow_end_of_serve_says_for_what_it_waits(place: Place) -> None:
    fifo = place.fifo("held")
    command = f"{place.service} -f {fifo} -j t {NAME}"
    place.add(NAME, command)
    witness = Witness(fifo)
    async with place.serve("--stop-timeout=1.5") as bus:
        await bus.echo(NAME)
        await witness.hear("t")
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        assert bus.status == 0
    witness.close()
    expected = rf"dbus-activator: waiting for {re.escape(NAME)}  pid \d+  {re.escape(command)}\n"
    assert re.fullmatch(expected, said)


@pytest.mark.parametrize("user", ["self"], indirect=True)
@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
def test_a_slow_end_of_run_says_for_what_it_waits(place: Place) -> None:
    """Of many processes for the first of them, and of a long command how it begins."""
    script = place.write(
        "command",
        "#!/bin/sh\ntrap '' TERM\nfor each in 1 2 3 4 5 6 7 8 9 10 11 12; do\n"
        f"setsid tail -f {'x' * 200} /dev/null 2>&- &\ndone\n",
    )
    done = place.run(str(script), options=["--stop-timeout=1.5"])
    *lines, last = done.stderr.splitlines()
    assert len(lines) == 10
    for line in lines:
        assert re.fullmatch(r"dbus-activator: waiting for -  pid \d+  tail -f x{112}…", line)
    assert last == "dbus-activator: waiting for 2 more processes"
    assert done.returncode == 0
