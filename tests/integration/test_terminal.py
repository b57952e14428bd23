"""What people see on terminals of several widths, and what Tab completes."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.buses import TEST
from tests.integration.terminal import Terminal

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

GOOD: Final = f"{TEST}.Good"
BAD: Final = f"{TEST}.Bad"
WIDTHS: Final = (20, 80, 200)
CAPTURE: Final = "--output=capture"
COLOUR: Final = re.compile(r"\x1b\[\d+m")


def describe(place: Place) -> None:
    """One that runs with a long command line, and one that fails with a long reason."""
    words = "a_rather_long_argument " * 6
    place.add(GOOD, f'/bin/sh -c "{place.service} {GOOD} & wait" {words.strip()}')
    script = place.write("bad", f"#!/bin/sh\necho {words} >&2\nexit 3\n")
    place.add(BAD, str(script))


async def prepared(bus: Bus) -> None:
    """Both have been started."""
    await bus.echo(GOOD)
    with pytest.raises(Exception, match="exited with status 3"):
        await bus.client.call("StartService", "s", BAD)


def terminal(bus: Bus, *argv: str, columns: int, **environ: str) -> Terminal:
    """A verb on a terminal."""
    place = bus.place
    env = place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address, **environ)
    return Terminal(place.user, [place.user.command, *argv], columns, env)


def lines(shown: str) -> list[str]:
    """What is seen, without colours."""
    return COLOUR.sub("", shown).splitlines()


async def test_lines_fit_the_terminal(place: Place) -> None:
    describe(place)
    verbs = {
        ("list",): 0,
        ("status",): 0,
        ("status", GOOD): 0,
        ("status", BAD): 3,
        ("ps", "--exited"): 0,
        ("analyze", "blame"): 0,
    }
    async with place.serve(CAPTURE) as bus:
        await prepared(bus)
        for columns in WIDTHS:
            for argv, status in verbs.items():
                with terminal(bus, *argv, columns=columns) as found:
                    assert await asyncio.to_thread(found.end) == status, argv
                    shown = lines(found.shown)
                    assert max(map(len, shown)) <= columns, (argv, columns)
                    assert "Traceback" not in found.shown
                    if columns == 20 and argv != ("status",):
                        assert any(line.endswith("…") for line in shown), argv
                    if columns == 200 and argv == ("list",):
                        assert GOOD in found.shown
                        assert shown[-2:] == ["", "2 services listed."]


async def test_colour_is_for_terminals_and_those_who_want_it(place: Place) -> None:
    describe(place)
    async with place.serve(CAPTURE) as bus:
        await prepared(bus)
        for argv in (["list"], ["status", BAD], ["ps"], ["analyze", "blame"]):
            with terminal(bus, *argv, columns=80) as found:
                await asyncio.to_thread(found.end)
                assert COLOUR.search(found.shown), argv
            with terminal(bus, *argv, columns=80, NO_COLOR="1") as found:
                await asyncio.to_thread(found.end)
                assert "\x1b" not in found.shown, argv


@pytest.mark.parametrize("columns", WIDTHS)
async def test_events_fit_the_terminal(place: Place, columns: int) -> None:
    describe(place)
    async with place.serve(CAPTURE) as bus:
        with terminal(bus, "monitor", columns=columns) as found:
            await asyncio.to_thread(found.until, "Ctrl-C ends it\n")
            start = len(found.shown)
            await prepared(bus)
            await bus.client.call("KillService", "ssi", GOOD, "all", signal.SIGKILL)
            await asyncio.to_thread(found.until, "\x1b[2m")  # an exit
            found.interrupt()
            assert await asyncio.to_thread(found.end) == 0
            shown = lines(found.shown[start:])
            assert max(map(len, shown)) <= columns
            assert "Traceback" not in found.shown


# -- completion -----------------------------------------------------------------------


async def test_bash_completes(place: Place) -> None:
    """A bash as people have it: type, press Tab twice, and see."""
    describe(place)
    async with place.serve() as bus:
        env = place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address, PS1="> ", HISTFILE="")
        env["PATH"] = f"{place.user.command.parent}:{env['PATH']}"
        bash = ["/bin/bash", "--norc", "--noprofile", "-i"]
        with Terminal(place.user, bash, 200, env) as shell:
            shell.type('eval "$(dbus-activator completion bash)"; echo ready-$((1+1))\n')
            await asyncio.to_thread(shell.until, "ready-2\n")
            for typed, shown in (
                ("dbus-activator rese\t", "reset-failed "),
                ("dbus-activator status --no-l\t", "--no-legend "),
                (f"dbus-activator status {TEST}.G\t", GOOD),
                (f"dbus-activator start {BAD} {TEST}.G\t", f"{BAD} {GOOD}"),
                ("dbus-activator kill -s SIGSE\t", "SIGSEGV "),
                ("dbus-activator kill -s SEG\t", "SEGV "),
                ("dbus-activator list --json p\t", "pretty "),
                ("dbus-activator analyze bl\t", "blame "),
                (
                    f"dbus-activator logs --address unix:path=/none {TEST}.\t;",
                    f"{TEST}.\x07;",
                ),  # a bell: there is none
            ):
                shell.type(typed)
                await asyncio.to_thread(shell.until, shown)
                shell.type("\x15")  # forget the line
            # With all that begin so, when there are several.
            shell.type(f"dbus-activator show {TEST}.\t\t")
            listed = await asyncio.to_thread(shell.until, GOOD)
            assert BAD in listed
            shell.type("\x15exit\n")
            assert await asyncio.to_thread(shell.end) == 0
