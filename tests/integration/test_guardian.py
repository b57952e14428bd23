"""A broker that is killed takes the bus and everything on it with it, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.integration import buses
from tests.integration.buses import Place, Witness, guardians_of, is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [pytest.mark.asyncio, pytest.mark.square]

NAME = "org.activation.Test.One"
PLAIN = "org.activation.Test.Plain"
NESTED = "org.activation.Test.Nested"
ECHO = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s hi"
GET_ID = (
    "busctl --address=$DBUS_STARTER_ADDRESS call org.freedesktop.DBus /org/freedesktop/DBus "
    "org.freedesktop.DBus GetId >/dev/null"
)
# Whatever ends a guardian as well as its broker.
KILL_BOTH = (
    "kill -STOP $PPID; for each in $(cat /proc/$PPID/task/*/children); do "
    "[ $each = $$ ] || kill -9 $each; done; kill -9 $PPID"
)
# Has a private directory's name.
LINK = f"dbus-activator-{'0' * 16}"
# Some do not take SIGTERM.
SOON = "--stop-timeout=0.5"
# What the guardian keeps to by far; the bench has the figure.
BOUND = 10.0


@contextmanager
def another(place: Place, held: str) -> Iterator[tuple[Place, Witness]]:
    """A place like this one, with a service whose processes are witnessed."""
    path = buses.short_directory(place.user)
    found = Place(path, place.user, place.service, place.engine)
    witness = add_service(found, held)
    yield found, witness
    witness.close()
    buses.remove(path)


def add_service(place: Place, kinds: str) -> Witness:
    """A service that daemonizes and leaves orphans of these kinds behind; see service.c."""
    fifo = place.fifo("held")
    place.add(NAME, f"{place.service} -d -f {fifo} -j {kinds} {NAME}")
    return Witness(fifo)


def watch(pids: Sequence[int], stack: ExitStack) -> list[int]:
    """A pidfd for each; those that have gone meanwhile have none."""
    found = []
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        stack.callback(os.close, fd)
        found.append(fd)
    return found


def see_end(pidfds: Sequence[int], began: float) -> None:
    """Wait until all of the processes have ended; they have ``BOUND`` seconds together."""
    for fd in pidfds:
        assert is_readable(fd, max(0, began + BOUND - time.monotonic())), "something is left"
    print(f"all had ended after {(time.monotonic() - began) * 1000:.0f} ms")  # noqa: T201


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_all_of_a_killed_serve_ends_and_nothing_of_another(
    place: Place, number: signal.Signals
) -> None:
    kinds = "hhhset" + "n" * (place.user.uid is None and os.geteuid() == 0)
    with (
        ExitStack() as stack,
        another(place, "e") as (beside, beside_witness),
        another(place, "he") as (inner, inner_witness),
    ):
        witness = add_service(place, kinds)
        place.add(PLAIN)
        script = place.write(
            "nested",
            f"#!/bin/sh\nexec {place.user.command} run --engine={place.engine} "
            f"--services={inner.services} -- sh -c '{ECHO} >/dev/null; exec sleep 1000'\n",
        )
        place.add(NESTED, str(script))
        async with beside.serve(SOON) as other, place.serve(SOON) as bus:
            for each in (other, bus):
                await each.echo(NAME)
            await bus.echo(PLAIN)
            starting = asyncio.create_task(bus.client.call("StartService", "s", NESTED))
            await witness.hear(kinds)
            await inner_witness.hear("he")
            await beside_witness.hear("e")
            mine, theirs = (
                watch([*each.tree(), *guardians_of(each.pid)], stack) for each in (bus, other)
            )
            assert len(mine) > 12
            began = time.monotonic()
            bus.kill(number)
            await asyncio.to_thread(see_end, mine, began)
            await witness.see_end()
            await inner_witness.see_end()
            assert "x" not in witness.heard + inner_witness.heard
            assert not any(is_readable(fd, 0) for fd in theirs)
            assert not beside_witness.at_end()
            assert await other.echo(NAME, "still here") == "still here"
            await asyncio.gather(starting, return_exceptions=True)
        witness.close()


async def test_the_command_of_a_killed_run_ends_and_so_does_its_output(place: Place) -> None:
    witness = add_service(place, "hhse")
    script = place.write(
        "command", f"#!/bin/sh\n{ECHO}\n(setsid sleep 1000 &)\nsleep 1000 &\nexec sleep 1000\n"
    )
    process = place.user.popen(
        [
            place.user.command,
            "run",
            f"--engine={place.engine}",
            f"--services={place.services}",
            SOON,
            "--",
            script,
        ],
        env=place.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    await witness.hear("hhse")
    assert process.stdout is not None
    assert await asyncio.to_thread(is_readable, process.stdout.fileno(), 20)
    assert process.stdout.readline() == 's "hi"\n'
    with ExitStack() as stack:
        pids = [process.pid]
        for pid in pids:
            pids += procfs.children_of(pid)
        watched = watch(pids, stack)
        began = time.monotonic()
        process.kill()
        output, _ = await asyncio.to_thread(process.communicate, timeout=BOUND)
        assert output == ""
        assert process.returncode == -signal.SIGKILL
        await asyncio.to_thread(see_end, watched, began)
    await witness.see_end()
    assert "x" not in witness.heard
    witness.close()


async def test_a_guardian_is_nobodys_process_and_ends_with_the_broker(place: Place) -> None:
    async with place.serve() as bus:
        (pid,) = guardians_of(bus.pid)
        manager = "org.activation.Broker1.Manager"
        # The bus alone.
        assert await bus.client.get("/org/activation/Broker1", manager, "NProcesses") == 1
        for member in ("GetProcess", "GetServiceByPID"):
            with pytest.raises(RemoteError):
                await bus.client.call(member, "u", pid)
        fd = os.pidfd_open(pid)
        bus.kill(signal.SIGTERM)
        await bus.ended()
        # It was reaped by the broker: there is no moment to wait for.
        assert is_readable(fd, 0)
        os.close(fd)
        assert bus.status == 0


async def test_a_lost_guardian_is_told_of_and_replaced(place: Place) -> None:
    witness = add_service(place, "he")
    async with place.serve(SOON) as bus:
        await bus.echo(NAME)
        await witness.hear("he")
        (first,) = guardians_of(bus.pid)
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(20):
            while not (second := [pid for pid in guardians_of(bus.pid) if pid != first]):
                await bus.client.call("ListServices")
        with ExitStack() as stack:
            watched = watch([*bus.tree(), *second], stack)
            began = time.monotonic()
            bus.kill(signal.SIGKILL)
            await asyncio.to_thread(see_end, watched, began)
        await witness.see_end()
        assert "guardian lost (code 2, status 9); another was started" in await bus.ended()
    witness.close()


async def test_what_a_killed_broker_leaves_is_ended_gently_and_the_bus_last(place: Place) -> None:
    """SIGTERM to all, ``ulimit`` or not: all have time for a clean end, while the bus lives."""
    ending = (
        f"trap '{GET_ID} && echo ended well >{place.path}/ended.$$; exit' TERM; "
        "sleep 1000 & echo ready >&9; wait"
    )
    fifo = place.fifo("held")
    witness = Witness(fifo)
    for number, limit in enumerate(("", "ulimit -m 1000;", "ulimit -x 1000;")):
        daemon = place.write(f"daemon{number}", f"#!/bin/bash\n{ending}\n")
        script = f"#!/bin/bash\nexec 9>{fifo}\n{limit} setsid {daemon} &\nexec {place.service} $1\n"
        name = f"{NAME}.N{number}"
        place.add(name, f"{place.write(f'service{number}', script)} {name}")
    async with place.serve("--stop-timeout=20") as bus:
        for number in range(3):
            assert await bus.echo(f"{NAME}.N{number}") == "hello"
        await witness.hear("ready" * 3)
        with ExitStack() as stack:
            watched = watch([*bus.tree(), *guardians_of(bus.pid)], stack)
            began = time.monotonic()
            bus.kill(signal.SIGKILL)
            await asyncio.to_thread(see_end, watched, began)
        await witness.see_end()
        said = await bus.ended()
    assert said == f"dbus-activator: the broker (process {bus.pid}) was killed: its session ends\n"
    ended = [each.read_text() for each in place.path.glob("ended.*")]
    assert ended == ["ended well\n"] * 3
    witness.close()


async def test_directories_of_dead_brokers_are_swept_at_the_next_start(place: Place) -> None:
    place.add(NAME)
    kept = place.path / LINK
    kept.symlink_to(place.services)
    old = place.path / f"dbus-activator-{'0' * 12}"  # of a version that had no lock
    old.mkdir()
    living = place.user.popen(
        [place.user.command, "run", f"--engine={place.engine}", "--", "cat"],
        env=place.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert living.stdin is not None
    assert living.stdout is not None
    living.stdin.write(b"x")
    living.stdin.flush()
    assert await asyncio.to_thread(living.stdout.read, 1) == b"x"
    theirs = directories(place)
    assert theirs
    for _ in range(2):
        dead = place.user.run(
            [
                *(place.user.command, "run", f"--engine={place.engine}"),
                *("--", "sh", "-c", KILL_BOTH),
            ],
            env=place.environ(),
        )
        assert dead.returncode == -signal.SIGKILL
    left = directories(place) - theirs
    assert left
    assert place.run("true").returncode == 0
    assert directories(place) == theirs
    assert kept.is_symlink()
    assert old.is_dir()
    assert (place.services / f"{NAME}.service").exists()
    with living:
        living.stdin.close()
    assert living.returncode == 0
    assert directories(place) == set()


def directories(place: Place) -> set[str]:
    """The private ones of brokers, but those that a test has made."""
    found = {each.name for each in place.path.glob("dbus-activator-*")}
    return {each for each in found if not each.endswith("-" + "0" * 12)} - {LINK}
