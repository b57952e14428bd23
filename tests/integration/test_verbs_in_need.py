"""Every verb where something is missing or wrong: one line, the right status, no traceback."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.bus import conftest as foreign
from tests.integration.buses import TEST

if TYPE_CHECKING:
    import subprocess

    from tests.integration.buses import Bus, Installation, Place

GOOD: Final = f"{TEST}.Good"
BAD: Final = f"{TEST}.Bad"
UNKNOWN: Final = "no.such.Name"

# Buses of both kinds that nobody of ours is on.
short_directory = foreign.short_directory
dbus_daemon = foreign.dbus_daemon
dbus_broker = foreign.dbus_broker

# Every verb that asks a broker, with what it needs; NAME is a service's.
ASKING: Final = {
    "list": ["list"],
    "status": ["status"],
    "status NAME": ["status", "NAME"],
    "show": ["show", "NAME"],
    "ps": ["ps"],
    "ps NAME": ["ps", "NAME"],
    "start": ["start", "NAME"],
    "stop": ["stop", "NAME"],
    "kill": ["kill", "NAME"],
    "reset-failed": ["reset-failed"],
    "reset-failed NAME": ["reset-failed", "NAME"],
    "wait": ["wait", "NAME"],
    "monitor": ["monitor"],
    "monitor NAME": ["monitor", "NAME"],
    "logs": ["logs", "NAME"],
    "logs -f": ["logs", "-f", "NAME"],
    "reload": ["reload"],
    "env": ["env"],
    "blame": ["analyze", "blame"],
    "plot": ["analyze", "plot"],
    "dot": ["analyze", "dot"],
}
NAMING: Final = [verb for verb, argv in ASKING.items() if "NAME" in argv]
# Those that print something by themselves, at once or with the first event.
PRINTING: Final = [
    verb
    for verb in ASKING
    if verb not in ("start", "stop", "kill", "wait", "monitor", "monitor NAME", "reload")
    and not verb.startswith("reset-failed")
]


def argv(verb: str, name: str) -> list[str]:
    return [name if word == "NAME" else word for word in ASKING[verb]]


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a verb that has failed with 1."""
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("dbus-activator: ")
    return line.removeprefix("dbus-activator: ")


@pytest.mark.parametrize("verb", ASKING)
def test_no_bus(place: Place, verb: str) -> None:
    command = [str(place.user.command), *argv(verb, GOOD)]
    where = f"unix:path={place.path}/none"
    done = place.user.run([*command, f"--address={where}"], env=place.environ())
    assert complaint(done) == f"cannot connect to {where}: No such file or directory"
    done = place.user.run([*command, "--address=nonsense"], env=place.environ())
    assert complaint(done).startswith("not a D-Bus address: 'nonsense'")
    environ = place.environ()
    del environ["XDG_RUNTIME_DIR"]
    done = place.user.run(command, env=environ)
    assert complaint(done) == (
        "no bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"
    )


@pytest.mark.parametrize("verb", ASKING)
@pytest.mark.parametrize("kind", ["dbus_daemon", "dbus_broker"])
def test_a_bus_without_a_broker(
    request: pytest.FixtureRequest, installation: Installation, kind: str, verb: str
) -> None:
    where = request.getfixturevalue(kind)
    done = installation.run([installation.command, *argv(verb, GOOD), f"--address={where}"])
    assert complaint(done) == (
        f"there is no dbus-activator on the bus {where}: start one with dbus-activator serve, "
        "or name another bus with --address"
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("verb", NAMING)
async def test_an_unknown_name(place: Place, verb: str) -> None:
    async with place.serve("--output=capture") as bus:
        done = await run(bus, *argv(verb, UNKNOWN))
        assert done.returncode == (1 if verb == "start" else 4)
        assert UNKNOWN in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


@pytest.mark.asyncio
async def test_an_unknown_process(place: Place) -> None:
    async with place.serve() as bus:
        for pid in ("4194304", "99999999999", "9" * 5000, "²", str(bus.pid)):
            done = await run(bus, "status", pid)
            assert (done.returncode, done.stdout) == (4, ""), pid
            assert pid in done.stderr
            assert len(done.stderr.splitlines()) == 1


async def run(bus: Bus, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A verb on a bus, to its end; through a shell that has it in "$@" with ``script``."""
    environ = bus.place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
    command = [str(bus.place.user.command), *words]
    if script := options.pop("script", ""):
        command = ["/bin/bash", "-c", script, "bash", *command]
    return await asyncio.to_thread(bus.place.user.run, command, env=environ, **options)


async def prepared(bus: Bus) -> None:
    """One that runs and has said something, and one that has failed."""
    await bus.echo(GOOD)
    await run(bus, "start", BAD)
    await bus.state(BAD, "failed")


def describe(place: Place) -> None:
    script = place.write("good", f"#!/bin/sh\necho hello\nexec {place.service} {GOOD}\n")
    place.add(GOOD, str(script))
    place.add(BAD, f"{place.service} -x 3 {BAD}")


@pytest.mark.asyncio
async def test_a_reader_that_has_gone(place: Place) -> None:
    """As in ``| head -0``; also when nothing more would be written."""
    describe(place)
    # Read from a pipe whose reading end is closed before the verb begins.
    script = 'exec 3> >(:); wait $!; "$@" >&3'
    async with place.serve("--output=capture") as bus:
        await prepared(bus)
        for verb in PRINTING:
            done = await run(bus, *argv(verb, GOOD), script=script)
            assert (done.returncode, done.stderr) == (141, ""), verb
        for words in (["monitor", "-q"], ["logs", "-n0", "-f", GOOD]):
            done = await run(bus, *words, script=script)
            assert (done.returncode, done.stderr) == (141, ""), words
        for words in (["--help"], ["list", "--help"], ["completion", "bash"], ["--version"]):
            done = await run(bus, *words, script=script)
            assert (done.returncode, done.stderr) == (141, ""), words


@pytest.mark.asyncio
async def test_an_output_that_takes_nothing(place: Place) -> None:
    describe(place)
    script = '"$@" >/dev/full'
    async with place.serve("--output=capture") as bus:
        await prepared(bus)
        for words in [
            *(argv(verb, GOOD) for verb in PRINTING),
            ["--help"],
            ["completion", "zsh"],
            ["verify", str(place.write("bad.service", ""))],
        ]:
            done = await run(bus, *words, script=script)
            assert complaint(done) == "cannot write the output: No space left on device", words


@pytest.mark.asyncio
async def test_without_standard_streams(place: Place) -> None:
    describe(place)
    async with place.serve("--output=capture") as bus:
        await prepared(bus)
        for verb in ("list", "status NAME", "ps"):
            for script in ('"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-'):
                done = await run(bus, *argv(verb, GOOD), script=script)
                assert (done.returncode, done.stderr) == (0, ""), (verb, script)
