"""``logs``, and the last lines in ``status``: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.buses import TEST
from tests.integration.test_verbs import verb

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME = f"{TEST}.One"
CAPTURE = "--output=capture"
KEYS = ["Serial", "Time", "Monotonic", "Activation", "Stream", "Text"]


def add(place: Place, script: str, name: str = NAME) -> None:
    """A service that is a shell script."""
    place.add(name, str(place.write(name, f"#!/bin/sh\n{script}\n")))


@contextlib.asynccontextmanager
async def follow(bus: Bus, *options: str) -> AsyncIterator[subprocess.Popen[str]]:
    """``logs -f`` until Ctrl-C, which it ends well with."""
    argv = [str(bus.place.user.command), "logs", "-f", *options, NAME]
    environ = bus.place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
    process = bus.place.user.popen(argv, env=environ, stdout=-1, stderr=-1, text=True)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


async def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """This number of lines of a follower, when they have come."""
    assert process.stdout is not None
    return [(await asyncio.to_thread(process.stdout.readline)).rstrip("\n") for _ in range(count)]


async def test_the_lines_with_their_time(place: Place) -> None:
    add(place, "echo one; echo 'two  words' >&2; exit 3")
    async with place.serve(CAPTURE) as bus:
        done = await verb(bus, "logs", NAME)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        await verb(bus, "start", NAME)
        done = await verb(bus, "logs", NAME)
        assert (done.returncode, done.stderr) == (0, "")
        found = done.stdout.splitlines()
        assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in found] == ["one", "two  words"]
        assert (await verb(bus, "logs", "-n", "1", NAME)).stdout == f"{found[-1]}\n"
        assert (await verb(bus, "logs", "-n0", NAME)).stdout == ""
        done = await verb(bus, "logs", "--json=short", NAME)
        entries: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert [list(each) for each in entries] == [KEYS, KEYS]
        assert [(each["Serial"], each["Stream"], each["Text"]) for each in entries] == [
            (1, "stdout", "one"),
            (2, "stderr", "two  words"),
        ]
        assert (await verb(bus, "logs", "no.such.Name")).returncode == 4
        assert (await verb(bus, "logs", "-f", "it's")).returncode == 4


async def test_without_capture_it_says_what_to_do(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        done = await verb(bus, "logs", NAME)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "dbus-activator: the output of services is not kept: "
            "the broker was started without --output=capture\n"
        )
        assert (await verb(bus, "logs", "no.such.Name")).returncode == 4


async def test_status_ends_with_the_last_lines(place: Place) -> None:
    add(place, "seq -f 'line %g' 12; exit 3")
    async with place.serve(CAPTURE) as bus:
        await verb(bus, "start", NAME)
        await bus.state(NAME, "failed")
        found = (await verb(bus, "status", NAME)).stdout.splitlines()[-10:]
        assert all(re.match(r"   \d\d:\d\d:\d\d line ", line) for line in found)
        assert [int(line.split()[-1]) for line in found] == list(range(3, 13))
        (status,) = json.loads((await verb(bus, "status", "--json=short", NAME)).stdout)
        assert [each["Serial"] for each in status["Log"]] == list(range(3, 13))


async def test_followers_lose_and_double_nothing(place: Place) -> None:
    """Three that begin at different times of a log that grows in bursts."""
    go = place.fifo("go")
    add(place, f"for burst in 1 2 3; do seq 300; read x < {go}; done; exec {place.service} {NAME}")
    async with place.serve(CAPTURE) as bus, contextlib.AsyncExitStack() as followers:
        fifo = os.open(go, os.O_RDWR)
        followers.callback(os.close, fifo)
        started = asyncio.create_task(bus.echo(NAME))
        found = []
        for burst in range(1, 4):
            follower = await followers.enter_async_context(follow(bus, "--json=short"))
            found.append((follower, await lines(follower, 300 * burst)))
            for other, seen in found[:-1]:
                seen.extend(await lines(other, 300))
            os.write(fifo, b"\n")
        await started
        for _, seen in found:
            entries = [json.loads(line) for line in seen]
            assert [each["Serial"] for each in entries] == list(range(1, 901))
            assert [each["Text"] for each in entries] == [str(n + 1) for n in range(300)] * 3


async def test_following_begins_where_it_is_told(place: Place) -> None:
    add(place, f"seq 5; exec {place.service} {NAME}")
    async with place.serve(CAPTURE) as bus:
        await bus.echo(NAME)
        async with follow(bus, "-n", "2") as some:
            assert [line.split()[1] for line in await lines(some, 2)] == ["4", "5"]
            await verb(bus, "stop", NAME)
            await bus.echo(NAME)
            assert [line.split()[1] for line in await lines(some, 5)] == list("12345")


async def test_a_log_that_begins_again_is_followed_from_its_beginning(place: Place) -> None:
    """A descriptor that went took its log with it; one that changed did not."""
    add(place, f"echo old; exec {place.service} {NAME}")
    async with place.serve(CAPTURE) as bus:
        await bus.echo(NAME)
        async with follow(bus) as follower:
            assert (await lines(follower, 1))[0].endswith(" old")
            file = place.services / f"{NAME}.service"
            file.write_text(file.read_text() + "User=nobody\n")
            await bus.client.call("Reload")
            await verb(bus, "stop", NAME)
            await bus.echo(NAME)
            assert (await lines(follower, 1))[0].endswith(" old")
            await verb(bus, "stop", NAME)
            file.unlink()
            await bus.client.call("Reload")
            add(place, f"echo new; echo newer; exec {place.service} {NAME}")
            await bus.client.call("Reload")
            await bus.echo(NAME)
            assert [line.split()[1] for line in await lines(follower, 2)] == ["new", "newer"]


async def test_a_follower_ends_with_the_bus(place: Place) -> None:
    add(place, f"echo on; exec {place.service} {NAME}")
    async with place.serve(CAPTURE) as bus:
        await bus.echo(NAME)
        argv = [str(place.user.command), "logs", "-f", f"--address={bus.address}", NAME]
        process = place.user.popen(argv, env=place.environ(), stdout=-1, stderr=-1, text=True)
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        bus.kill(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate)
        assert process.returncode == 1
        assert said.startswith("dbus-activator: the ")
        assert len(said.splitlines()) == 1
