"""``--output=capture``: output is kept, reported with failures, and harms nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.core.lines import LONGEST
from broker.core.log import MOST_LINES
from broker.errors import RemoteError
from tests.aio_client import Client, Signal
from tests.integration.buses import open_fifo

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"
OTHER = "org.activation.Test.Other"
FDO = "org.freedesktop.DBus.Error."
CAPTURE = "--output=capture"


def add(place: Place, script: str, name: str = NAME) -> None:
    """A service that is a shell script in the place; $SERVICE is the C service."""
    text = f"#!/bin/sh\nSERVICE={place.service}\ncd {place.path}\n{script}\n"
    place.add(name, str(place.write(name, text)))


async def log(bus: Bus, name: str = NAME, after: int = 0, lines: int = 0) -> list[list[Any]]:
    """Activation, stream and text of each line."""
    entries, _ = await bus.client.call("GetLog", "stu", name, after, lines)
    return [entry[3:] for entry in entries]


async def texts(bus: Bus, name: str = NAME) -> list[str]:
    """The text of each line."""
    return [text for _, _, text in await log(bus, name)]


async def failure(bus: Bus, name: str = NAME) -> tuple[str, dict[str, Any]]:
    """Start a service that fails: the reason as the caller got it, and the signal's details."""
    with pytest.raises(RemoteError) as caught:
        await bus.client.call("StartService", "s", name)
    _, error, message, details = await bus.signal("ActivationFailed", service=name)
    assert (error, message) == (caught.value.name, str(caught.value))
    return message, details


def open_fds(bus: Bus) -> list[str]:
    """What the broker has open."""
    return os.listdir(f"/proc/{bus.pid}/fd")


def limit_descriptors(bus: Bus, soft: int) -> None:
    """Set the broker's soft limit; for another user's process that takes a capability."""
    done = bus.place.user.run(["prlimit", f"--pid={bus.pid}", f"--nofile={soft}:"])
    assert done.returncode == 0, done.stderr


def memory(bus: Bus) -> int:
    """The broker's resident set in bytes."""
    status = Path(f"/proc/{bus.pid}/status").read_text()
    match = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


async def release(fifo: Path) -> None:
    """Release the reader of a FIFO."""
    (await open_fifo(fifo, "wb")).close()


async def appended(bus: Bus, name: str = NAME) -> None:
    """Until there is more in a log than when it was asked for."""
    await bus.signal("LogAppended", service=name)


# -- failures ---------------------------------------------------------------------


async def test_a_failure_is_told_with_the_last_line_before_the_end(place: Place) -> None:
    add(place, "echo starting\necho 'cannot open /var/db: Permission denied' >&2\nexit 3")
    async with place.serve(CAPTURE) as bus:
        for number in range(1, 4):
            reason = f"Process {NAME} exited with status 3: cannot open /var/db: Permission denied"
            message, details = await failure(bus)
            assert message == reason
            assert details["Log"] == ["starting", "cannot open /var/db: Permission denied"]
            assert await log(bus, lines=2) == [
                [number, "stdout", "starting"],
                [number, "stderr", "cannot open /var/db: Permission denied"],
            ]
        with pytest.raises(RemoteError) as caught:
            await bus.echo(NAME)
        if place.engine == "dbus-daemon":
            assert caught.value.name == f"{FDO}Spawn.ChildExited"
            assert str(caught.value) == reason
        bus.kill(signal.SIGTERM)
        assert f"dbus-activator: {NAME}: {reason}\n" in await bus.ended()


async def test_the_end_of_a_large_output_is_not_missed(place: Place) -> None:
    """As much as a pipe can hold, written while the broker has other things to do."""
    add(place, "seq -f 'line %.0f' 6000; printf 'and no newline' >&2; kill -9 $$")
    async with place.serve(CAPTURE) as bus:
        message, details = await failure(bus)
        assert message == f"Process {NAME} received signal 9: and no newline"
        # Between the streams, the order is that in which they were read.
        said = [line for line in details["Log"] if line.startswith("line ")]
        assert said == [f"line {number}" for number in range(6001 - len(said), 6001)]
        assert len(said) >= 9


async def test_a_failure_is_told_with_the_words_of_its_own_activation(place: Place) -> None:
    add(place, "test -e once && exit 4; touch once; echo first >&2; exit 3")
    place.add(OTHER, "/nonexistent")
    async with place.serve(CAPTURE) as bus:
        assert (await failure(bus))[0].endswith("status 3: first")
        message, details = await failure(bus)
        assert message == f"Process {NAME} exited with status 4"
        assert details["Log"] == []
        message, details = await failure(bus, OTHER)
        assert message.endswith("/nonexistent: No such file or directory")
        assert details["Log"] == []
        for _ in range(3):
            await failure(bus)
        message, _ = await failure(bus)
        assert message == f"{NAME} failed 5 times within 10 s and is not started for a while"


async def test_a_timeout_is_told_with_what_it_waits_for(place: Place) -> None:
    add(place, "echo 'waiting for the database'; exec sleep 1000")
    async with place.serve(CAPTURE, "--activation-timeout=0.3") as bus:
        message, _ = await failure(bus)
        assert message.endswith("timed out after 0.3 s: waiting for the database")


async def test_long_last_words_are_cut(place: Place) -> None:
    add(place, "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3")
    async with place.serve(CAPTURE) as bus:
        message, details = await failure(bus)
        assert re.fullmatch(rf"Process {NAME} exited with status 3: x{{240}}…", message)
        assert all(re.fullmatch("x{240}…", line) for line in details["Log"])


# -- lines ------------------------------------------------------------------------


async def test_nothing_in_a_line_drives_a_terminal(place: Place) -> None:
    place.write(
        "bytes",
        b"\xff\xfe no UTF-8\n\x1b[2J\x1b]0;title\x07\na\0b\n50%\r100%\nGr\xc3\xb6\xc3\x9fe\ta\n\n",
    )
    add(place, "cat bytes; exit 3")
    async with place.serve(CAPTURE) as bus:
        message, details = await failure(bus)
        assert message == f"Process {NAME} exited with status 3: Größe\ta"
        assert details["Log"] == await texts(bus)
        assert await texts(bus) == [
            "\\xff\\xfe no UTF-8",
            "\\x1b[2J\\x1b]0;title\\x07",
            "a\\x00b",
            "50%\\r100%",
            "Größe\ta",
            "",
        ]


async def test_a_line_of_a_megabyte_is_cut_in_pieces(place: Place) -> None:
    add(place, "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo next; exit 3")
    async with place.serve(CAPTURE) as bus:
        await failure(bus)
        *pieces, last, following = await texts(bus)
        assert set(pieces) == {"x" * LONGEST + "…"}
        assert (last, following) == ("x" * LONGEST, "next")
        entries, dropped = await bus.client.call("GetLog", "stu", NAME, 0, 0)
        assert len(entries) + dropped == 1048576 // LONGEST + 1
        assert 30 < len(entries) < 34  # 256 KiB


async def test_half_a_line_is_kept_until_there_is_the_rest(place: Place) -> None:
    fifo = place.fifo("gate")
    add(place, f"echo whole; printf half; cat gate; echo ' a line'; exec $SERVICE {NAME}")
    async with place.serve(CAPTURE) as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", NAME))
        # The other side opens it when it has written that.
        gate = await open_fifo(fifo, "wb")
        assert await texts(bus) == ["whole"]
        gate.close()
        await start
        assert await texts(bus) == ["whole", "half a line"]


async def test_the_time_of_a_line_is_between_what_comes_before_and_after(place: Place) -> None:
    add(place, "echo one; exit 3")
    async with place.serve(CAPTURE) as bus:
        await failure(bus)
        ((serial, realtime, monotonic, *_),), dropped = await bus.client.call(
            "GetLog", "stu", NAME, 0, 0
        )
        start, end = (f"ExecMain{each}Timestamp" for each in ("Start", "Exit"))
        started, failed = await bus.get(NAME, start, "StateChangeTimestamp")
        assert started <= realtime <= failed
        started, exited = await bus.get(NAME, f"{start}Monotonic", f"{end}Monotonic")
        assert started <= monotonic
        assert exited > 0
        assert (serial, dropped) == (1, 0)


# -- who writes -------------------------------------------------------------------


async def test_a_service_that_closes_a_stream_keeps_the_other(place: Place) -> None:
    add(place, f"echo out; exec >&-; echo err >&2; exec $SERVICE {NAME}")
    async with place.serve(CAPTURE) as bus:
        before = len(open_fds(bus))
        await bus.echo(NAME)
        assert await log(bus) == [[1, "stdout", "out"], [1, "stderr", "err"]]
        assert len(open_fds(bus)) == before + 1
        await bus.client.call("StopService", "s", NAME)
        await log(bus)
        assert len(open_fds(bus)) == before


async def test_orphans_go_on_writing_and_are_told_from_the_next_activation(place: Place) -> None:
    fifo = place.fifo("gate")
    add(
        place,
        f"test -e once && {{ echo second; exec $SERVICE {NAME}; }}; touch once\n"
        f"(sh -c 'cat gate; echo late >&2' &); exec $SERVICE -d {NAME}",
    )
    async with place.serve(CAPTURE) as bus:
        await bus.echo(NAME)
        with pytest.raises(RemoteError):
            await bus.call(NAME, "Exit", "i", 0)
        await bus.state(NAME, "lingering")
        await bus.echo(NAME)
        assert await log(bus) == [[2, "stdout", "second"]]
        await release(fifo)
        await appended(bus)
        assert await log(bus) == [[2, "stdout", "second"], [1, "stderr", "late"]]


async def test_the_bus_and_the_command_of_run_write_where_they_did(place: Place) -> None:
    add(place, f"echo service; echo service >&2; exec $SERVICE {NAME}")
    call = f"busctl --address=$DBUS_SESSION_BUS_ADDRESS call {NAME} / a.b Echo s hello"
    for output, expected in (
        (CAPTURE, ("command\n", "command\n")),
        ("--output=null", ("command\n", "command\n")),
        ("--output=inherit", ("service\ncommand\n", "service\ncommand\n")),
    ):
        done = await asyncio.to_thread(
            place.run, "sh", "-c", f"{call} >null; echo command; echo command >&2", options=[output]
        )
        assert (done.stdout, done.stderr) == expected


# -- asking -----------------------------------------------------------------------


@pytest.mark.parametrize("output", ["inherit", "null"])
async def test_what_is_not_captured_cannot_be_asked_for(place: Place, output: str) -> None:
    add(place, "echo one >&2; exit 3")
    async with place.serve(f"--output={output}") as bus:
        with pytest.raises(RemoteError, match="without --output=capture") as caught:
            await log(bus)
        assert caught.value.name == "org.activation.Broker1.Error.NotCaptured"
        message, details = await failure(bus)
        assert message == f"Process {NAME} exited with status 3"
        assert "Log" not in details


async def test_a_log_that_is_not_there(place: Place) -> None:
    add(place, "exit 3")
    async with place.serve(CAPTURE) as bus:
        assert await log(bus) == []
        with pytest.raises(RemoteError) as caught:
            await log(bus, "no.such.Name")
        assert caught.value.name == f"{FDO}ServiceUnknown"


async def test_an_answer_has_all_that_was_written_before_the_question(place: Place) -> None:
    """More of it than is read in a turn of the broker's loop."""
    gate, done = place.fifo("gate"), place.fifo("done")
    add(place, f"cat gate; seq 10000; : >done; exec $SERVICE {NAME}")
    async with place.serve(CAPTURE) as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", NAME))
        holder = await open_fifo(gate, "wb")
        bus.kill(signal.SIGSTOP)
        holder.close()
        (await open_fifo(done, "rb")).close()
        question = asyncio.create_task(log(bus, lines=1))
        await bus.client.bus.call_bus("GetId")  # which comes behind it
        bus.kill(signal.SIGCONT)
        assert await question == [[1, "stdout", "10000"]]
        await start


class Follower:
    """A client that reads a log as the interface's description says."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def on_signal(self, signal: Signal) -> None:
        """Of ``Client.subscribe``."""
        if signal.member == "LogAppended" and signal.body[1] > len(self.lines):
            self._changed.set()

    async def follow(self, count: int) -> None:
        """Read until there is this number of lines."""
        while True:
            self._changed.clear()
            after = len(self.lines)
            entries, dropped = await self.client.call("GetLog", "stu", NAME, after, 0)
            assert dropped == 0
            assert [entry[0] for entry in entries] == list(
                range(after + 1, after + 1 + len(entries))
            )
            self.lines += [entry[5] for entry in entries]
            if len(self.lines) >= count:
                return
            async with asyncio.timeout(20):
                await self._changed.wait()


async def test_followers_see_every_line_once(place: Place) -> None:
    rounds, lines = 8, 400  # together fewer than are kept
    fifo = place.fifo("gate")
    write = f"for j in $(seq {lines}); do echo $i-$j; done"
    add(place, f"for i in $(seq {rounds}); do cat gate; {write}; done; exec $SERVICE {NAME}")
    async with (
        place.serve(CAPTURE) as bus,
        await Client.connect(bus.address) as one,
        await Client.connect(bus.address) as two,
    ):
        followers = [Follower(one), Follower(two)]
        for each in followers:
            await each.client.subscribe(each.on_signal)
        call = asyncio.create_task(bus.echo(NAME))
        for number in range(1, rounds + 1):
            following = [asyncio.create_task(each.follow(number * lines)) for each in followers]
            # They have asked before there is more, so they must be told of it.
            await bus.client.call("ListServices")
            await release(fifo)
            await asyncio.gather(*following)
        await call
        written = [f"{i}-{j}" for i in range(1, rounds + 1) for j in range(1, lines + 1)]
        for each in followers:
            assert each.lines == written


async def test_nothing_is_said_while_nobody_asks(place: Place) -> None:
    add(place, f"seq 100; exec $SERVICE {NAME}")
    async with place.serve(CAPTURE) as bus:
        seen: list[str] = []
        async with await Client.connect(bus.address) as other:
            await other.subscribe(lambda signal: seen.append(signal.member))
            await bus.echo(NAME)
            await bus.client.call("StopService", "s", NAME)
            await other.call("ListServices")  # comes behind all signals before it
        assert "ProcessExited" in seen
        assert "LogAppended" not in seen
        assert len(await log(bus)) == 100


# -- what it costs ----------------------------------------------------------------


async def test_a_service_that_writes_without_end_costs_nobody_else(place: Place) -> None:
    add(place, "exec yes")
    place.add(OTHER)
    async with place.serve(CAPTURE, "--activation-timeout=50") as bus:
        start = asyncio.create_task(bus.client.call("StartService", "s", NAME))
        before = memory(bus)
        dropped = 0
        while dropped < 200_000:
            assert await bus.echo(OTHER) == "hello"
            with pytest.raises(RemoteError):
                await bus.call(OTHER, "Exit", "i", 0)
            await bus.state(OTHER, "dead")
            entries, dropped = await bus.client.call("GetLog", "stu", NAME, 0, 1)
            # None at first, while its shell is still on the way.
            assert {entry[5] for entry in entries} <= {"y"}
        assert len(await log(bus)) == MOST_LINES
        # A full log is a megabyte, an answer with all of it some more.
        assert memory(bus) - before < 16 << 20
        await bus.client.call("StopService", "s", NAME)
        with pytest.raises(RemoteError):
            await start


async def test_100_captured_services_at_once(place: Place) -> None:
    names = [f"{NAME}{number}" for number in range(100)]
    for name in names:
        add(place, f"echo {name}; echo {name} >&2; exec $SERVICE -d {name}", name)
    async with place.serve(CAPTURE) as bus:
        before = len(open_fds(bus))
        await asyncio.gather(*(bus.echo(name) for name in names))
        for name in names:
            assert sorted(await log(bus, name)) == [[1, "stderr", name], [1, "stdout", name]]
        assert len(open_fds(bus)) == before + 2 * len(names)
        await asyncio.gather(*(bus.client.call("StopService", "s", name) for name in names))
        for name in names:
            assert len(await log(bus, name)) == 2
        assert len(open_fds(bus)) == before


async def test_a_broker_without_descriptors_says_so_and_goes_on(place: Place) -> None:
    add(place, f"echo one; exec $SERVICE {NAME}")
    async with place.serve(CAPTURE) as bus:
        before = open_fds(bus)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit_descriptors(bus, max(map(int, before)) + 2)
        message, details = await failure(bus)
        assert message == f"Failed to make a pipe for the output of {NAME}: Too many open files"
        assert details["Result"] == "resources"
        limit_descriptors(bus, soft)
        assert len(open_fds(bus)) == len(before)
        assert await bus.echo(NAME) == "hello"
        assert await texts(bus) == ["one"]
