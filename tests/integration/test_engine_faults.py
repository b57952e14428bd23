"""The engine ends, hangs or is missing, at every moment: nothing is left, the reason is named."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.bus.codec import Message, MessageType, Splitter, decode, encode
from broker.bus.driver import DRIVER
from broker.process import procfs
from tests.integration.buses import open_fifo
from tests.integration.worlds import has_signal, none_left

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.buses import Bus, Place

NAME = "org.activation.Test.One"
VERSION = 'case "$*" in *--version*) echo dbus-broker 33; echo D-Bus Message Bus Daemon 1.14; exit'
ENDS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM]


def until_taken(pid: int, number: int) -> None:
    """Return when a process has read a blocked signal that was sent to it."""
    while has_signal(pid, "ShdPnd", number):
        pass


async def all_gone(bus: Bus, tree: list[int]) -> list[str]:
    """Wait for the end of ``serve``; what it said, when all that was below it has ended."""
    said = await bus.ended()
    assert "Traceback" not in said
    assert [pid for pid in tree if procfs.alive(pid)] == []
    none_left(bus.place, "go", "service", "stopping")
    return said.splitlines()


@pytest.mark.asyncio
@pytest.mark.parametrize("number", ENDS)
async def test_an_engine_that_ends_takes_all_with_it(place: Place, number: signal.Signals) -> None:
    """Also with status 0, which dbus-broker gives for much that is no order to stop."""
    place.add(NAME, f"{place.service} -d -l {NAME}")
    async with place.serve() as bus:
        await bus.echo(NAME)
        tree = bus.tree()
        os.kill(bus.engine, number)
        (said,) = await all_gone(bus, tree)
        how = "status 0" if number == signal.SIGTERM else f"signal {int(number)}"
        version = rf"{place.engine} [\d.]+"
        assert re.fullmatch(f"dbus-activator: the message bus has ended: {version}: {how}", said)
        assert bus.status == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("number", ENDS)
async def test_in_the_middle_of_an_activation(place: Place, number: signal.Signals) -> None:
    place.add(NAME, f"{place.service} -l -w {place.fifo('go')} {NAME}")
    async with place.serve() as bus:
        call = asyncio.create_task(bus.call(NAME, "Echo", "s", "hello"))
        await bus.state(NAME, "start")
        tree = bus.tree()
        os.kill(bus.engine, number)
        said = await all_gone(bus, tree)
        assert bus.status == 1
        assert len([line for line in said if "the message bus has ended" in line]) == 1
        with pytest.raises(Exception, match="ended"):
            await call


@pytest.mark.asyncio
async def test_in_the_middle_of_the_end(place: Place) -> None:
    fifo = place.fifo("stopping")
    script = place.write(
        "service",
        f"#!/bin/sh\ntrap 'echo got it >{fifo}' TERM\nwhile :; do sleep 1000 & wait; done\n",
    )
    place.add(NAME, str(script))
    async with place.serve("--stop-timeout=1") as bus:
        call = asyncio.create_task(bus.client.call("StartService", "s", NAME))
        await bus.state(NAME, "start")
        tree = bus.tree()
        engine = bus.engine
        bus.kill(signal.SIGTERM)
        with await open_fifo(fifo, "r") as said:
            assert said.read() == "got it\n"
        os.kill(engine, signal.SIGKILL)
        await all_gone(bus, tree)
        assert bus.status == 0  # it was asked to end, and has
        with pytest.raises(Exception, match=r"end(ing|ed)"):
            await call


@pytest.mark.asyncio
@pytest.mark.parametrize("number", ENDS[:1])
async def test_while_descriptors_are_read_again(place: Place, number: signal.Signals) -> None:
    async with place.serve() as bus:
        engine = bus.engine
        os.kill(engine, signal.SIGSTOP)
        for each in range(50):
            place.add(f"{NAME}.N{each}")
        bus.kill(signal.SIGHUP)
        await asyncio.to_thread(until_taken, bus.pid, signal.SIGHUP)
        tree = bus.tree()
        os.kill(engine, number)
        said = await all_gone(bus, tree)
        assert bus.status == 1
        assert "the message bus has ended" in said[-1]
        # Not one for each of the names that it was to be told.
        assert len(said) <= 2


@pytest.mark.asyncio
@pytest.mark.parametrize("reloading", [False, True])
async def test_one_that_hangs_is_ended(place: Place, reloading: bool) -> None:
    async with place.serve() as bus:
        os.kill(bus.engine, signal.SIGSTOP)
        if reloading:
            place.add(NAME)
            bus.kill(signal.SIGHUP)
            await asyncio.to_thread(until_taken, bus.pid, signal.SIGHUP)
        tree = bus.tree()
        bus.kill(signal.SIGTERM)
        said = await all_gone(bus, tree)
        assert bus.status == 0
        # It is not waited for: nobody would be told that it does not answer.
        assert [line for line in said if "no answer" in line] == []


# -- the beginning -------------------------------------------------------------------


def started(place: Place, script: str, **options: object) -> subprocess.Popen[str]:
    """``serve`` on a program in the engine's place."""
    (place.path / "bin").mkdir(mode=0o755)
    program = place.write(f"bin/{place.engine}", f"#!/bin/sh\n{script}\n")
    options = {"env": place.environ(PATH=f"{program.parent}:/usr/bin:/bin")} | options
    return place.user.popen(
        [place.user.command, "serve", f"--engine={place.engine}", f"--services={place.services}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("when", ["version", "start"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_hangs_at_the_start_does_not_keep_us(
    place: Place, when: str, number: signal.Signals
) -> None:
    fifo = place.fifo("begun")
    version = f"{VERSION};; esac; " if when == "start" else ""
    process = started(place, f"{version}trap '' TERM; echo $$ >{fifo}; exec sleep 1000")
    pid = int(fifo.read_text())
    process.send_signal(number)
    printed, said = process.communicate()
    # Not of dbus-daemon while it starts, which is killed at once.
    assert re.fullmatch(rf"(dbus-activator: waiting for \S+  pid {pid}  sleep 1000\n)?", said)
    assert (printed, process.returncode) == ("", 0)
    assert not procfs.alive(pid)
    none_left(place, "bin", "begun")


def test_a_reload_at_the_start_waits(place: Place) -> None:
    fifo = place.fifo("begun")
    process = started(place, f"{VERSION};; esac; echo $$ >{fifo}; exec sleep 1000")
    assert fifo.read_text()
    process.send_signal(signal.SIGHUP)
    until_taken(process.pid, signal.SIGHUP)
    process.terminate()
    assert process.communicate() == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("end", ["exit 0", "exit 3", "kill -KILL $$", "kill -SEGV $$"])
def test_one_that_ends_at_the_start(place: Place, end: str) -> None:
    process = started(place, f"{VERSION};; esac; {end}")
    _, said = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(rf"dbus-activator: {place.engine} \S+ [^\n]+\n", said)
    none_left(place, "bin", "begun")


def listening_in(place: Place) -> socket.socket:
    """A socket as a supervisor has it: blocking, and long before the bus."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(place.path / "passed"))
    (place.path / "passed").chmod(0o666)
    sock.listen()
    return sock


def serve_on(place: Place, listening: socket.socket, **environ: str) -> subprocess.Popen[str]:
    """``serve`` on a passed socket; LISTEN_PID is that of a shell that becomes it."""
    return place.user.popen(
        [
            "/bin/bash",
            "-c",
            f'exec 3<&{listening.fileno()}; LISTEN_PID=$$ exec "$@"',
            "sh",
            place.user.command,
            "serve",
            f"--engine={place.engine}",
            f"--services={place.services}",
        ],
        env=place.environ(LISTEN_FDS="1", **environ),
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_that_ends_is_not_waited_for_on_a_socket_that_outlives_it(place: Place) -> None:
    (place.path / "bin").mkdir(mode=0o755)
    program = place.write(
        f"bin/{place.engine}",
        # It says that it serves, and ends.
        f"#!/bin/sh\n{VERSION};; esac\necho unix:path={place.path}/passed >&4\nexit 3\n",
    )
    with listening_in(place) as listening:
        process = serve_on(place, listening, PATH=f"{program.parent}:/usr/bin:/bin")
        _, said = process.communicate()
    assert process.returncode == 1
    assert "ended" in said
    assert "no answer" not in said


# -- clients that are there before us ------------------------------------------------


def pipelined(path: Path, *calls: Message) -> socket.socket:
    """A connection with a whole conversation sent ahead, from a socket nobody serves yet."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(path))
    data = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
    for serial, call in enumerate((driver("Hello"), *calls), 1):
        call.serial = serial
        data += encode(call)
    sock.sendall(data)
    return sock


def driver(member: str, signature: str = "", *body: object) -> Message:
    """A call to the bus itself."""
    return Message(
        destination=DRIVER,
        path="/org/freedesktop/DBus",
        interface=DRIVER,
        member=member,
        signature=signature,
        body=list(body),
    )


def answer(sock: socket.socket, serial: int) -> Message:
    """The answer to a call of a conversation, from its second on."""
    splitter = Splitter()
    data = b""
    while not data.endswith(b"\r\n") and b"\r\nl" not in data and b"\r\nB" not in data:
        data += sock.recv(1)
    # Two lines, DATA and OK; then messages.
    while data.count(b"\r\n") < 2:
        data += sock.recv(1)
    while True:
        for frame in splitter.feed(sock.recv(65536)):
            message = decode(frame)
            if message is not None and message.reply_serial == serial:
                return message


@pytest.mark.parametrize("member", ["Environment", "Echo"])
def test_a_call_before_the_broker_is_connected_is_served(place: Place, member: str) -> None:
    place.add(NAME)
    call = Message(
        destination=NAME,
        path="/",
        interface="org.activation.Test",
        member=member,
        signature="s" if member == "Echo" else "",
        body=["hello"] if member == "Echo" else [],
    )
    with listening_in(place) as listening:
        client = pipelined(place.path / "passed", driver("ReloadConfig"), call)
        process = serve_on(place, listening)
        reply = answer(client, 3)
        assert reply.message_type is MessageType.METHOD_RETURN
        if member == "Echo":
            assert reply.body == ["hello"]
        else:
            (own,) = [each for each in reply.body[0] if each.startswith("DBUS_SESSION_BUS_ADDRESS")]
            assert re.fullmatch(rf"\w+=unix:path={place.path}/passed,guid=[0-9a-f]{{32}}", own)
        client.close()
        process.terminate()
        # It may have to end before it has heard that the service is there.
        assert "Traceback" not in process.communicate()[1]
        assert process.returncode == 0


def test_a_name_of_ours_that_another_client_took_first_is_named(place: Place) -> None:
    names = ["org.activation.Broker1"]
    if place.engine == "dbus-daemon":
        names.append("org.freedesktop.systemd1")
    for name in names:
        with listening_in(place) as listening:
            client = pipelined(place.path / "passed", driver("RequestName", "su", name, 4))
            process = serve_on(place, listening)
            _, said = process.communicate()
            client.close()
        (place.path / "passed").unlink()
        assert said == f"dbus-activator: another process owns {name} already\n"
        assert process.returncode == 1


# -- what is meant for us, and not for the engine ---------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_what_the_terminal_sends_does_not_reach_the_engine(
    place: Place, number: signal.Signals
) -> None:
    """It goes to the whole process group; dbus-broker ends on SIGHUP and SIGINT."""
    place.add(NAME)
    script = place.write(
        "command",
        f"""#!/bin/sh
        trap 'got=1' {int(number)}
        echo ready
        while [ -z "$got" ]; do sleep 0.05; done
        # It comes from the group, and from us who pass it on.
        trap "" {int(number)}
        exec busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / org.activation.Test Echo s x
        """,
    )
    process = place.user.popen(
        [
            place.user.command,
            "run",
            f"--engine={place.engine}",
            f"--services={place.services}",
            "--",
            script,
        ],
        env=place.environ(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)
    assert process.communicate()[0] == 's "x"\n'
    assert process.returncode == 0
