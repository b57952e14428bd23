"""The system lacks something: the broker goes on or refuses with a reason, and all are answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import random
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.integration import buses
from tests.integration.buses import Installation, Place
from tests.integration.worlds import field, none_left, wrap, wrap_in_mounts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from tests.integration.buses import Bus

NAME = "org.activation.Test.One"
OTHER = "org.activation.Test.Other"
CALL = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s x"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"

# -- a full table of descriptors -------------------------------------------------------


def test_too_few_descriptors_are_refused_or_enough(place: Place) -> None:
    """Every limit from the least that Python itself starts with."""
    place.add(NAME)
    wrap(place, "ulimit -n $LIMIT")
    statuses = []
    for limit in (*range(6, 34, 2), 40, 60, 80):
        done = place.run("sh", "-c", CALL, env=place.environ(LIMIT=str(limit)))
        assert "Traceback" not in done.stderr, limit
        assert done.returncode in (0, 127), (limit, done.stderr)
        if done.returncode:
            assert re.fullmatch(r"(dbus-activator: .*Too many open files.*\n)+", done.stderr), limit
        statuses.append(done.returncode)
    none_left(place, "wrapper")
    assert statuses == sorted(statuses, reverse=True)  # refused up to some limit, then never
    assert {statuses[0], statuses[-1]} == {0, 127}


def fill_table(bus: Bus) -> None:
    """Leave the broker no number for another descriptor."""
    used = {int(name) for name in os.listdir(f"/proc/{bus.pid}/fd")}
    free = next(number for number in itertools.count() if number not in used)
    # As its own user: root may lack the capability to do it to others.
    done = bus.place.user.run(["prlimit", f"--pid={bus.pid}", f"--nofile={free}:"])
    assert done.returncode == 0, done.stderr


@pytest.mark.asyncio
async def test_a_full_table_hides_no_process(place: Place) -> None:
    place.add(NAME, f"{place.service} -d -l {NAME}")
    place.add(OTHER)
    async with place.serve() as bus:
        await asyncio.to_thread(fill_table, bus)
        assert await bus.echo(NAME) == "hello"
        # The daemon and the orphan that it left, known as its own.
        snapshot = await bus.client.snapshot()
        ours = [each for each in snapshot.processes.values() if each["ServiceName"] == NAME]
        alive = [each["PID"] for each in ours if procfs.alive(each["PID"])]
        assert len(alive) == 2
        assert set(alive) <= set(bus.tree())
        # A catalog cannot be read now: then the one that there is stays.
        with pytest.raises(RemoteError, match="Too many open files"):
            await bus.client.call("Reload")
        assert await bus.echo(OTHER) == "hello"
        await bus.client.call("StopService", "s", NAME)
        assert [pid for pid in alive if procfs.alive(pid)] == []
        assert await bus.echo(NAME) == "hello"
        tree = bus.tree()
        bus.kill(signal.SIGTERM)
        assert "Traceback" not in await bus.ended()
        assert bus.status == 0
        assert [pid for pid in tree if procfs.alive(pid)] == []


def connections(place: Place) -> list[socket.socket]:
    """As many as the engine takes: then dbus-broker hangs up, and dbus-daemon waits."""
    found: list[socket.socket] = []
    turned_away = False
    while not turned_away and len(found) < 400:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20 if place.engine == "dbus-broker" else 0)
        found.append(sock)
        try:
            sock.connect(str(place.path / "bus"))
            sock.send(b"\0AUTH EXTERNAL\r\nDATA\r\n")
            turned_away = place.engine == "dbus-broker" and not sock.recv(100)
        except (ConnectionError, BlockingIOError):
            turned_away = True
    return found


@pytest.mark.asyncio
async def test_connections_beyond_the_engines_table_do_not_end_it(place: Place) -> None:
    """dbus-broker ends when its table is full; it must turn clients away before."""
    place.add(NAME)
    place.add(OTHER)
    wrap(place, "ulimit -n 128")
    async with place.serve() as bus:
        await bus.echo(NAME)
        flood = await asyncio.to_thread(connections, place)
        assert len(flood) > 20
        assert place.engine == "dbus-daemon" or len(flood) < 96
        # Who is on the bus already is served.
        assert await bus.echo(NAME) == "hello"
        for sock in flood:
            sock.close()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await bus.echo(OTHER) == "hello"
                except RemoteError:
                    # It was turned away itself; the engine has not seen all of them go.
                    await bus.client.call("ResetFailed", "s", OTHER)
                else:
                    break


# -- no process more -------------------------------------------------------------------


@pytest.fixture
def small_user(engine: str, ordinary: Installation, c_service: Path) -> Iterator[Place]:
    """A place of a user who has no process but those of the test."""
    if os.geteuid() != 0:
        pytest.skip("only root has users to spare")
    # One that dbus-daemon finds among the users; it hangs up on others.
    busy = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError):
            busy.add(os.stat(f"/proc/{pid}").st_uid)
    idle = [each.pw_uid for each in pwd.getpwall() if 0 < each.pw_uid < 1000]
    uid = random.choice([each for each in idle if each not in busy])  # noqa: S311
    user = Installation(ordinary.command, uid)
    path = buses.short_directory(user)
    yield Place(path, user, c_service, engine)
    buses.remove(path)


@pytest.mark.asyncio
async def test_a_refused_fork_is_told_to_its_caller(small_user: Place) -> None:
    place = small_user
    place.add(NAME)
    place.add(OTHER)
    wrap(place, "ulimit -u 4")  # the broker, its guardian, the engine, and one service
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await bus.client.call("StartService", "s", OTHER)
            assert caught.value.name == LIMITS
            assert "Resource temporarily unavailable" in str(caught.value)
            with pytest.raises(RemoteError):
                await bus.call(OTHER, "Echo", "s", "hello")
            await bus.client.call("ResetFailed", "s", OTHER)
        assert await bus.get(OTHER, "Result") in ("resources", "success")
        await bus.client.call("StopService", "s", NAME)
        assert await bus.echo(OTHER) == "hello"


def test_no_process_for_the_engine_is_said(small_user: Place) -> None:
    place = small_user
    wrap(place, "ulimit -u 2")  # the broker and its guardian
    done = place.run("true")
    assert done.returncode == 127
    assert re.fullmatch(
        r"dbus-activator: cannot start the message bus: Failed to fork a new process "
        rf"{place.engine}: Resource temporarily unavailable\n",
        done.stderr,
    )
    none_left(place, "wrapper")


# -- marks and files that are not there ----------------------------------------------

WORLDS = {
    "hidepid": ["mount -t proc -o hidepid=2 proc /proc"],
    "no-cgroup": ["umount -l /sys/fs/cgroup"],
    "read-only-cgroup": ["mount -o remount,bind,ro /sys/fs/cgroup"],
    "no-mark": ["umount -l /sys/fs/cgroup", "prlimit --pid=$$ --locks=0"],
    "hidden-no-mark": [
        "umount -l /sys/fs/cgroup",
        "prlimit --pid=$$ --locks=0",
        "mount -t proc -o hidepid=2 proc /proc",
    ],
}


async def outcome(call: Awaitable[Any]) -> str:
    """What a call gave, or the name of its error."""
    try:
        return str(await call)
    except RemoteError as e:
        return e.name


@pytest.mark.asyncio
@pytest.mark.parametrize("world", WORLDS)
async def test_whatever_is_missing_nobody_waits_and_nothing_is_left(
    place: Place, world: str
) -> None:
    setuid = place.path / "setuid"
    setuid.write_bytes(place.service.read_bytes())
    setuid.chmod(0o4755)  # root's, since root writes here
    names = {
        NAME: f"{place.service} {NAME}",
        f"{NAME}.Daemon": f"{place.service} -d {NAME}.Daemon",
        f"{NAME}.Fails": f"{place.service} -d -x 3 {NAME}.Fails",
        f"{NAME}.Root": f"{setuid} -u {NAME}.Root",
        f"{NAME}.RootDaemon": f"{setuid} -d -u {NAME}.RootDaemon",
    }
    for name, command in names.items():
        place.add(name, command)
    wrap_in_mounts(place, *WORLDS[world])
    async with place.serve("--activation-timeout=10", "--stop-timeout=1") as bus:
        tree = set(bus.tree())
        answers = {}
        for name in names:
            answers[name] = await outcome(bus.call(name, "Echo", "s", "hello"))
            tree |= set(bus.tree())
        for name, answer in answers.items():
            # Of a daemon without a mark nothing tells whose it is, nor does it of root's
            # that is hidden: then its service has ended, for all that can be known.
            lost = "no-mark" in world or (world == "hidepid" and "Root" in name)
            served = not name.endswith("Fails") and not ("Daemon" in name and lost)
            assert answer == "hello" if served else answer != "", (name, answer)
            assert "NoReply" not in answer
            assert "Timed" not in answer
        assert await bus.state(NAME, "running") == "running"
        bus.kill(signal.SIGTERM)
        said = await bus.ended()
        assert "Traceback" not in said
        assert bus.status == 0
        # Root's are not ours to end; they notice by themselves that the bus has gone.
        left = [pid for pid in tree if procfs.alive(pid) and field(pid, "Uid").split()[0] != "0"]
        assert left == []


def test_a_proc_that_is_not_mounted_is_said(place: Place) -> None:
    wrap_in_mounts(place, "mount -t tmpfs none /proc")
    done = place.run("true")
    assert (done.returncode, done.stderr) == (127, "dbus-activator: /proc is not mounted\n")
    none_left(place, "wrapper", "inside")


@pytest.mark.parametrize("runtime", ["/nonexistent", "read-only", ""])
def test_there_is_a_place_without_a_runtime_directory(place: Place, runtime: str) -> None:
    place.add(NAME)
    if runtime == "read-only":
        runtime = str(place.path / "runtime")
        os.mkdir(runtime)
        wrap_in_mounts(
            place, f"mount --bind {runtime} {runtime}; mount -o remount,bind,ro {runtime}"
        )
    environ = place.environ(XDG_RUNTIME_DIR=runtime)
    done = place.run("sh", "-c", f"echo $DBUS_SESSION_BUS_ADDRESS; {CALL}", env=environ)
    assert done.stderr == ""
    address, reply = done.stdout.splitlines()
    assert address.startswith("unix:path=/tmp/dbus-activator-")
    assert reply == 's "x"'
    served = place.user.run(
        [place.user.command, "serve", f"--engine={place.engine}"],
        env=place.environ(XDG_RUNTIME_DIR="/nonexistent"),
    )
    assert served.returncode == 6
    assert "unix:path=/nonexistent/bus: No such file or directory" in served.stderr


def test_no_directory_that_can_be_written_is_said(place: Place) -> None:
    wrap_in_mounts(place, "mount --bind /tmp /tmp", "mount -o remount,bind,ro /tmp")
    done = place.run("true")
    assert done.returncode == 127
    assert done.stderr == (
        "dbus-activator: no directory for the bus: "
        "neither XDG_RUNTIME_DIR nor /tmp can be written\n"
    )


def test_a_bus_has_a_machine_id_where_the_host_has_none(place: Place) -> None:
    files = ("/etc/machine-id", "/var/lib/dbus/machine-id")
    hidden = [f"if [ -e {each} ]; then mount --bind /dev/null {each}; fi" for each in files]
    wrap_in_mounts(place, *hidden)
    done = place.run("sh", "-c", f"grep . {files[0]}; {CALL}")
    place.add(NAME)
    done = place.run("sh", "-c", f"grep . {files[0]}; {CALL}")
    assert (done.stdout, done.stderr) == ('s "x"\n', "")


@pytest.mark.asyncio
async def test_a_full_disk_costs_the_reload_alone(place: Place) -> None:
    """dbus-daemon needs a file for each name; dbus-broker gets the names by calls."""
    place.add(NAME)
    disk = place.path / "disk"
    disk.mkdir()
    # Room for what there is at the start, and one file.
    wrap_in_mounts(place, f"mount -t tmpfs -o nr_inodes=6,mode=777 none {disk}")
    async with place.serve(environ=place.environ(XDG_RUNTIME_DIR=str(disk))) as bus:
        for number in range(20):
            place.add(f"{NAME}.N{number}")
        if place.engine == "dbus-daemon":
            with pytest.raises(RemoteError, match="No space left on device"):
                await bus.client.call("Reload")
        else:
            await bus.client.call("Reload")
            assert await bus.echo(f"{NAME}.N7") == "hello"
        assert await bus.echo(NAME) == "hello"
        for number in range(20):
            (place.services / f"{NAME}.N{number}.service").unlink()
        await bus.client.call("Reload")
        assert await bus.echo(NAME) == "hello"
        bus.kill(signal.SIGTERM)
        assert "Traceback" not in await bus.ended()
        assert bus.status == 0


def test_a_disk_that_is_full_at_the_start_is_said(place: Place) -> None:
    disk = place.path / "disk"
    disk.mkdir()
    wrap_in_mounts(place, f"mount -t tmpfs -o nr_inodes=4,mode=777 none {disk}")
    place.add(NAME)
    done = place.run("true", env=place.environ(XDG_RUNTIME_DIR=str(disk)))
    assert "Traceback" not in done.stderr
    if place.engine == "dbus-daemon":
        assert done.returncode == 127
        assert re.fullmatch(
            rf"dbus-activator: cannot write {disk}/\S+: No space left on device\n", done.stderr
        )
    else:
        assert (done.returncode, done.stderr) == (0, "")
