"""Odd surroundings cost nothing, or one line: refused calls, an umask, names, inheritances."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.process import procfs
from tests.aio_client import Client
from tests.integration.buses import TEST, Installation, Witness
from tests.integration.standin import config, environ
from tests.integration.worlds import none_left, wrap, wrap_in_mounts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Place

pytestmark = pytest.mark.square

NAME = f"{TEST}.One"
CALL = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / {TEST} Echo s x"
ONE_USER = pytest.mark.parametrize("user", ["self"], indirect=True)

# -- system calls that a filter refuses ------------------------------------------------

EPERM, ENOSYS = "Operation not permitted", "Function not implemented"
# What we say of each; a 0 in front: we go on.
REFUSED = {
    ("flock", ENOSYS): (127, "no directory for the bus: "),
    ("pidfd_open", EPERM): (0, "no guardian: if we are killed, services stay"),
    ("pidfd_open", ENOSYS): (0, "no guardian: if we are killed, services stay"),
    ("pidfd_send_signal", EPERM): (0, ""),
    ("prctl", EPERM): (127, "prctl(36)"),
    ("prlimit64", EPERM): (0, ""),
    ("prlimit64", ENOSYS): (0, ""),
    ("sched_yield", EPERM): (0, ""),
    ("signalfd4", ENOSYS): (127, "signalfd"),
    ("socketpair", EPERM): (127, "cannot start: socketpair"),
    ("wait4", EPERM): (127, "cannot wait for processes"),
    ("waitid", EPERM): (127, "cannot wait for processes"),
}


@ONE_USER
@pytest.mark.parametrize(("call", "reason"), REFUSED)
def test_a_refused_system_call_is_named_or_done_without(
    place: Place, refuse: Path, call: str, reason: str
) -> None:
    status, said = REFUSED[call, reason]
    place.add(NAME, f"{place.service} -l {NAME}")
    wrap(place, before=f"{refuse} {call} {'ENOSYS' if reason == ENOSYS else 'EPERM'}")
    done = place.run("sh", "-c", CALL, options=["--stop-timeout=1"])
    (line,) = done.stderr.splitlines() or [""]
    assert line.startswith(f"dbus-activator: {said}" if said else "")
    assert line.endswith(f": {reason}" if said else "")
    assert (done.returncode, done.stdout) == (status, "" if status else 's "x"\n')
    none_left(place, "wrapper")


@ONE_USER
@pytest.mark.asyncio
@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal"])
async def test_without_pidfds_what_a_service_has_forked_is_ended_as_well(
    place: Place, refuse: Path, call: str
) -> None:
    wrap(place, before=f"{refuse} {call} EPERM")
    witness = Witness(place.fifo("held"))
    script = f"exec 9>{place.path}/held; sleep 1000 & exec {place.service} {NAME}"
    place.add(NAME, str(place.write("service", f"#!/bin/sh\n{script}\n")))
    async with place.serve() as bus:
        await bus.echo(NAME)
        await bus.client.call("StopService", "s", NAME)
        await witness.see_end()
        bus.kill(signal.SIGTERM)
        assert "another user" not in await bus.ended()
        assert bus.status == 0
    witness.close()


# -- how we were started ---------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_umask_that_leaves_nothing_is_the_services_alone(place: Place) -> None:
    place.add(NAME)
    wrap(place, "umask 0777")
    done = place.run("sh", "-c", f"umask; {CALL}")
    assert (done.stdout, done.stderr) == ('0777\ns "x"\n', "")
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        script = f"umask >{place.path}/umask; exec {place.service} {NAME}.Two"
        place.add(f"{NAME}.Two", str(place.write("two", f"#!/bin/sh\n{script}\n")))
        await bus.client.call("Reload")
        umask = place.write("umask", "", mode=0o666)
        assert await bus.echo(f"{NAME}.Two") == "hello"
        assert umask.read_text() == "0777\n"


@ONE_USER
def test_what_our_process_had_started_before_it_was_ours_is_left_alone(place: Place) -> None:
    """A shell that executes us has children, and so do they."""
    place.add(NAME)
    fifo = place.fifo("held")
    read = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    wrap(
        place,
        f"exec 9>{fifo}",
        "(sleep 1000 & echo $! >&9; exec sh -c 'exit 3') >/dev/null 2>&1 &",
        "sleep 1000 >/dev/null 2>&1 & echo $! >&9",
        "exec 9>&-",
    )
    done = place.run("sh", "-c", CALL, options=["--fail-on-leak"])
    assert (done.returncode, done.stdout, done.stderr) == (0, 's "x"\n', "")
    pids = [int(each) for each in os.read(read, 4096).split()]
    os.close(read)
    assert len(pids) == 2
    for pid in pids:
        assert procfs.alive(pid)
        os.kill(pid, signal.SIGKILL)


@ONE_USER
def test_a_system_without_dev_null_is_said(place: Place, link: Path) -> None:
    engine = f"--engine={place.engine}"
    file = f"--config-file={place.write('bus.conf', '<busconfig/>')}"
    us = place.user.command
    for program, options in (
        (us, ["run", engine, "true"]),
        (us, ["serve", engine]),
        (link, [file]),
    ):
        place.user = Installation(program)
        wrap_in_mounts(place, "mount -t tmpfs none /dev")
        done = place.user.run([place.user.command, *options], env=place.environ())
        assert done.returncode != 0
        assert done.stderr == (
            "dbus-activator: cannot start: No such file or directory: /dev/null\n"
        )


# -- names and paths -------------------------------------------------------------------


@ONE_USER
@pytest.mark.asyncio
async def test_names_may_be_as_long_as_they_may_be(place: Place) -> None:
    names = [f"{TEST}.{'n' * (length - len(TEST) - 1)}" for length in (243, 244, 247, 248, 255)]
    names += [f"{names[-1][:-1]}m"]
    for number, name in enumerate(names):
        place.write(
            f"services/{number}.service",
            f"[D-BUS Service]\nName={name}\nExec={place.service} {name}\n",
        )
    async with place.serve() as bus:
        for name in names:
            assert await bus.echo(name) == "hello"
        for number in (4, 5):
            (place.services / f"{number}.service").unlink()
        await bus.client.call("Reload")
        activatable = await bus.client.bus.call_bus("ListActivatableNames")
        assert set(names).intersection(*activatable) == set(names[:4])


@ONE_USER
@pytest.mark.asyncio
async def test_an_old_brokers_end_leaves_the_new_ones_socket(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as old:
        (place.path / "bus").unlink()
        async with place.serve() as new:
            old.kill(signal.SIGTERM)
            assert await old.ended() == ""
            assert old.status == 0
            async with await Client.connect(new.address) as client:
                assert await client.call("ListServices")
        assert not (place.path / "bus").exists()


@ONE_USER
def test_an_old_bus_leaves_the_new_ones_pid_file(place: Place, link: Path) -> None:
    pid_file = place.path / "pid"
    text = f"<listen>unix:path={place.path}/b</listen><pidfile>{pid_file}</pidfile>"
    process = place.user.popen(
        [link, "--nofork", "--print-address", f"--config-file={config(place, text)}"],
        env=environ(place),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()
        pid_file.rename(place.path / "old")
        pid_file.write_text("1\n")
        process.terminate()
    assert process.returncode == 0
    assert pid_file.read_text() == "1\n"


# -- processes that look dead ----------------------------------------------------------


@ONE_USER
@pytest.mark.asyncio
async def test_a_process_without_its_main_thread_is_alive(place: Place) -> None:
    witness = Witness(place.fifo("held"))
    place.add(NAME, f"{place.service} -f {place.path}/held -j l {NAME}")
    async with place.serve() as bus:
        await bus.echo(NAME)
        await witness.hear("l")
        (main, pids) = await bus.get(NAME, "MainPID", "PIDs")
        (orphan,) = set(pids) - {main}
        (leaks,) = await bus.client.call("ListLeaks")
        assert [leak[1] for leak in leaks] == [orphan]
    await witness.see_end()
    witness.close()
