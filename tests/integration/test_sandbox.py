"""The verbs in sandboxes as Flatpak makes them: a proxy before the bus, another /proc and PIDs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.core.contract import BUS_NAME
from tests.integration.buses import TEST
from tests.integration.test_verbs_in_need import ASKING, argv, complaint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.integration.buses import Bus, Place

pytestmark = [
    pytest.mark.asyncio,
    # A proxy is its user's own, whoever that is.
    pytest.mark.parametrize("user", ["self"], indirect=True),
]
NAME: Final = f"{TEST}.One"
WALLS: Final = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid"]


@contextlib.contextmanager
def proxied(bus: Bus, *options: str) -> Iterator[str]:
    """The address of xdg-dbus-proxy, as it is started for a sandbox."""
    socket = bus.place.path / "proxy"
    read, write = os.pipe()
    command = ["xdg-dbus-proxy", f"--fd={write}", bus.address, str(socket), "--filter", *options]
    with (
        os.fdopen(read, "rb", buffering=0) as ready,
        bus.place.user.popen(command, pass_fds=[write]) as process,
    ):
        os.close(write)
        try:
            assert ready.read(1)
            yield f"unix:path={socket}"
        finally:
            process.terminate()


async def run(bus: Bus, where: str, *words: Any) -> subprocess.CompletedProcess[str]:
    """A program for which the bus is at an address."""
    environ = bus.place.environ(DBUS_SESSION_BUS_ADDRESS=where)
    return await asyncio.to_thread(bus.place.user.run, words, env=environ)


async def test_verbs_work_behind_a_proxy(place: Place) -> None:
    place.add(NAME)
    async with place.serve("--output=capture") as bus:
        command = place.user.command
        with proxied(bus, f"--talk={BUS_NAME}") as where:
            for verb in ("start", "list", "status NAME", "env"):
                done = await run(bus, where, command, *argv(verb, NAME))
                assert (done.returncode, done.stderr) == (0, ""), verb
            # What is told without being asked for passes too.
            environ = place.environ(DBUS_SESSION_BUS_ADDRESS=where)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            with place.user.popen([command, "monitor", NAME], env=environ, **pipes) as monitor:
                assert monitor.stdout is not None
                assert monitor.stderr is not None
                assert await asyncio.to_thread(monitor.stderr.readline)
                await bus.client.call("StopService", "s", NAME)
                while "exited" not in (line := await asyncio.to_thread(monitor.stdout.readline)):
                    assert line
                monitor.terminate()


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
@pytest.mark.parametrize(
    ("options", "error", "verbs"),
    [
        ([], "ServiceUnknown", ASKING),
        ([f"--see={BUS_NAME}"], "AccessDenied", ["list", "start", "monitor"]),
    ],
    ids=["hidden", "seen"],
)
async def test_a_proxy_that_denies_is_named(
    place: Place, options: list[str], error: str, verbs: Iterable[str]
) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        with proxied(bus, *options) as where:
            for verb in verbs:
                done = await run(bus, where, place.user.command, *argv(verb, NAME))
                assert re.fullmatch(
                    rf"the proxy in front of the bus {where} refuses \w+ with "
                    rf"org\.freedesktop\.DBus\.Error\.{error}: it needs --talk={BUS_NAME} "
                    rf"\(in Flatpak --talk-name={BUS_NAME}\)",
                    complaint(done),
                ), verb


@pytest.mark.parametrize("engine", ["dbus-broker"], indirect=True)
async def test_in_a_sandbox_pids_are_those_of_others(place: Place) -> None:
    """The bus is elsewhere there, and what /proc shows is not what the broker speaks of."""
    if place.user.run([*WALLS, "true"]).returncode:
        pytest.skip("no namespaces of users here")
    # A child that its parent waits for: the broker has no record of it.
    script = place.write("parent", f"#!/bin/sh\n{place.service} {NAME} &\nwait\n")
    place.add(NAME, str(script))
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        main, child = await bus.get(NAME, "PIDs")
        with proxied(bus, f"--talk={BUS_NAME}") as where:
            socket = where.removeprefix("unix:path=")
            inside = "/run/flatpak/bus"
            walls = [*WALLS, "--tmpfs", "/run", "--ro-bind", socket, inside, place.user.command]
            note = f"not shown, since the broker has another /proc: {child}"
            for words, said in ((["list"], ""), (["ps"], note), (["status", NAME], note)):
                done = await run(bus, f"unix:path={inside}", *walls, *words)
                assert done.stderr == (f"dbus-activator: {said}\n" if said else ""), words
                assert NAME in done.stdout
            done = await run(bus, where, place.user.command, "ps")
            assert done.stderr == ""
            assert {str(main), str(child)} <= set(done.stdout.split())
