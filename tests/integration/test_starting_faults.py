"""How the broker was started: its signals, streams and supervisor, and rivals for its place."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.integration.worlds import field, none_left, wrap

if TYPE_CHECKING:
    from tests.integration.buses import Place

NAME = "org.activation.Test.One"
OTHER = "org.activation.Test.Other"
CALL = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s x"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"


@pytest.mark.asyncio
async def test_signals_that_our_starter_ignored_or_blocked(place: Place) -> None:
    place.add(NAME)
    place.add(OTHER, f"{place.service} -x 7 {OTHER}")
    wrap(place, before="env --ignore-signal=CHLD --ignore-signal=PIPE --block-signal")
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        with pytest.raises(RemoteError):
            await bus.client.call("StartService", "s", OTHER)
        assert await bus.get(OTHER, "ExecMainStatus") == 7
        main = await bus.get(NAME, "MainPID")
        # glibc's posix_spawn has its own two signals, 32 and 33, ignored.
        masks = [int(field(main, name), 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn")]
        assert masks == [0, 0]
        bus.kill(signal.SIGTERM)
        assert "Traceback" not in await bus.ended()
        assert bus.status == 0


CLOSED = [
    " ".join(f"{fd}>&-" for fd in chosen)
    for size in range(4)
    for chosen in itertools.combinations((0, 1, 2), size)
]


@pytest.mark.asyncio
@pytest.mark.parametrize("closed", CLOSED)
async def test_closed_standard_streams(place: Place, closed: str) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    wrap(place, closing=closed)
    done = place.run("sh", "-c", f"{CALL} >{place.path}/answer", env=place.environ())
    assert done.returncode == 0
    assert (place.path / "answer").read_text() == 's "x"\n'
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        pid = await bus.get(NAME, "MainPID")
        for fd in (0, 1, 2):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            assert fd != 0 or target == "/dev/null"
            assert f"{fd}>&-" not in closed or target == "/dev/null"
        bus.kill(signal.SIGTERM)
        assert await bus.ended() == ""
        assert bus.status == 0


def complaining(place: Place) -> None:
    """More to say than fits in any buffer."""
    for number in range(40):
        place.write(f"services/{'x' * 60}{number}.service", "nonsense\n")
    place.add(NAME)


def test_a_full_standard_error_changes_nothing(place: Place) -> None:
    complaining(place)
    wrap(place, closing="2>/dev/full")
    done = place.run("sh", "-c", CALL)
    assert (done.returncode, done.stdout) == (0, 's "x"\n')
    for command, status in (("exit 3", 3), ("kill -9 $$", 137)):
        assert place.run("sh", "-c", command).returncode == status
    assert place.run("no-such-command").returncode == 127
    served = place.user.run(
        [place.user.command, "serve", "--address=nonsense"], env=place.environ()
    )
    assert served.returncode == 6


@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_standard_error_that_nobody_reads(place: Place, kind: str) -> None:
    complaining(place)
    read, write = os.pipe()
    os.set_blocking(write, False)
    if kind == "full":
        with contextlib.suppress(BlockingIOError):
            while os.write(write, b"x" * 4096):
                pass
    else:
        os.close(read)
    process = place.user.popen(
        [
            place.user.command,
            "run",
            f"--engine={place.engine}",
            f"--services={place.services}",
            "--",
            "sh",
            "-c",
            f"{CALL} 2>/dev/null; exit 5",
        ],
        env=place.environ(),
        stdout=subprocess.PIPE,
        stderr=write,
        text=True,
    )
    assert process.communicate()[0] == 's "x"\n'
    assert process.returncode == 5
    os.close(write)
    if kind == "full":
        os.close(read)


@pytest.mark.parametrize("option", ["--print-address", "--print-pid"])
@pytest.mark.parametrize("stream", [">/dev/full", ">&-", "| true"])
def test_an_address_that_cannot_be_printed_is_refused(
    place: Place, option: str, stream: str
) -> None:
    if stream == "| true":
        wrap(place, "exec > >(exec true)", "wait $!")
        reason = "Broken pipe"
    else:
        wrap(place, closing=stream)
        reason = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor"}[stream]
    done = place.user.run(
        [
            place.user.command,
            "serve",
            f"--engine={place.engine}",
            f"--services={place.services}",
            option,
        ],
        env=place.environ(),
    )
    assert done.returncode == 6
    assert done.stderr == f"dbus-activator: cannot print on descriptor 1: {reason}\n"
    none_left(place, "wrapper")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["missing", "full", "stream", "too long", "vsock"])
async def test_a_supervisor_that_cannot_be_told(place: Place, kind: str) -> None:
    where = str(place.path / "notify")
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if kind == "full":
        theirs.bind(where)
        (place.path / "notify").chmod(0o666)
        filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(BlockingIOError):
            while filler.sendto(b"x", socket.MSG_DONTWAIT, where):
                pass
        filler.close()
    elif kind == "stream":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(where)
        listening.close()
    elif kind == "too long":
        where = "/" + "x" * 200
    elif kind == "vsock":
        where = "vsock:2:1234"
    place.add(NAME)
    async with place.serve(environ=place.environ(NOTIFY_SOCKET=where)) as bus:
        assert await bus.echo(NAME) == "hello"
        tree = bus.tree()
        bus.kill(signal.SIGTERM)
        said = (await bus.ended()).splitlines()
        assert bus.status == 0
        assert len(said) == 2
        assert all(f"cannot tell NOTIFY_SOCKET {where} that " in line for line in said)
        assert [pid for pid in tree if procfs.alive(pid)] == []
    theirs.close()


def test_a_passed_descriptor_that_is_closed_is_refused(place: Place) -> None:
    wrap(place, "export LISTEN_PID=$$ LISTEN_FDS=1", closing="3>&-")
    done = place.user.run([place.user.command, "serve"], env=place.environ())
    assert done.returncode == 6
    assert done.stderr == "dbus-activator: descriptor 3 of LISTEN_FDS: Bad file descriptor\n"


def test_an_address_whose_queue_is_full_is_in_use(place: Place) -> None:
    """Its owner hangs; we must not wait for it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place.path / "bus"))
    (place.path / "bus").chmod(0o666)
    listening.listen(0)
    waiting: list[socket.socket] = []
    while not waiting or waiting[-1].connect_ex(str(place.path / "bus")) == 0:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
    done = place.user.run([place.user.command, "serve"], env=place.environ())
    for each in (listening, *waiting):
        each.close()
    assert done.returncode == 6
    assert "Address already in use" in done.stderr


def test_timeouts_that_are_no_numbers_or_endless(place: Place) -> None:
    for option in ("activation", "handover", "stop"):
        done = place.run("true", options=[f"--{option}-timeout=nan"])
        assert done.returncode == 2
        assert f"--{option}-timeout: nan is not a number of seconds" in done.stderr
        assert place.run("true", options=[f"--{option}-timeout=inf"]).returncode == 0
