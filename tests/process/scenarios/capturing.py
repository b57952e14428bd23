"""Services whose output is captured, and a broker that reads it or does not any more."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from typing import TYPE_CHECKING, Any

from broker.core.log import Log
from broker.process import kernel
from broker.process.capture import Capture
from broker.process.spawn import Program, SpawnRefusedError, spawn
from tests.process.broker import Broker
from tests.process.harness import WAIT, pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME = "org.test.One"


def start(capture: Capture, log: Log, script: str, fds: Mapping[int, int] | None = None) -> int:
    """A shell whose output goes to a log."""
    argv = ["/bin/sh", "-c", script]
    environ = {"PATH": os.defpath}
    with capture.outputs(log, 1) as outputs:
        return spawn(
            Program(argv=argv, name=log.service, environ=environ, fds={**(fds or {}), **outputs})
        )


def lines(log: Log) -> list[list[str]]:
    """Stream and text of all that is in a log."""
    return [[entry.stream, entry.text] for entry in log.after(0)[0]]


def capturing() -> Capture:
    """A capture in the running loop, whose logs nobody asks for."""
    return Capture(asyncio.get_running_loop(), lambda _: None)


async def until(condition: Callable[[], bool]) -> None:
    """Return when something is so, looked at in each turn of the loop, which does not rest."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def look() -> None:
        if condition():
            done.set_result(None)
        elif not done.cancelled():
            loop.call_soon(look)

    look()
    async with asyncio.timeout(WAIT):
        await done


async def all_ended(capture: Capture) -> None:
    """Until every pipe has been read to its end."""
    await until(lambda: not capture._pipes)  # noqa: SLF001 - nothing else shows it


def ended(pid: int) -> None:
    """Wait, without a turn of the loop, until a child has ended."""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def open_fds() -> int:
    """How many descriptors we have."""
    return len(os.listdir("/proc/self/fd"))


async def streams() -> Any:
    """What a service's streams are to it."""
    capture = capturing()
    log = Log(NAME)
    script = "echo 1 >/dev/stdout; echo 2 >/dev/stderr; cat /proc/self/fdinfo/1 /proc/self/fdinfo/2"
    ended(start(capture, log, script))
    capture.read_all(log)
    flags = [text.split()[1] for _, text in lines(log) if text.startswith("flags:")]
    opened = [each for each in lines(log) if each[1] in ("1", "2")]
    capture.close()
    return {"opened": opened, "blocking": [not int(each, 8) & os.O_NONBLOCK for each in flags]}


async def orders() -> Any:
    """Streams written to while the loop does not turn, read by it or by a drain."""
    capture = capturing()
    found = []
    for script in ("echo 1; echo 2 >&2; echo 3", "echo 1 >&2; echo 2; echo 3 >&2"):
        for drained in (False, True):
            log = Log(NAME)
            ended(start(capture, log, script))
            if drained:
                capture.read_all(log)
            before = open_fds()
            await until(lambda log=log: log.last == 3)  # type: ignore[misc]
            await all_ended(capture)
            assert (open_fds() == before) == drained
            found.append(lines(log))
    capture.close()
    return found


async def floods(count: int) -> Any:
    """Services that write without end beside one that says something."""
    async with Broker() as broker:
        capture = capturing()
        logs = [Log(f"org.test.Flood{number}") for number in range(count)]
        for log in logs:
            with capture.outputs(log, 1) as fds:
                broker.spawn(["/usr/bin/yes"], log.service, fds)
        largest = last = 0

        def turn() -> None:
            nonlocal largest, last
            now = sum(log.last for log in logs)
            largest = max(largest, now - last)
            last = now
            broker.loop.call_soon(turn)

        turn()
        await until(lambda: all(log.last > 20_000 for log in logs))
        quiet = Log(NAME)
        with capture.outputs(quiet, 1) as fds:
            broker.spawn(["/bin/echo", "hello"], NAME, fds)
        await until(lambda: quiet.last > 0)
        capture.close()
        return {"largest": largest, "quiet": lines(quiet)}


async def many(count: int) -> Any:
    """A log that is drained behind many others with something to read."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    capture = capturing()
    for number in range(1, count + 1):
        log = Log(NAME)
        with capture.outputs(log, 1) as fds:
            os.write(fds[2], b"%d\n" % number)
    capture.read_all(log)
    capture.close()
    return lines(log)


async def descriptors() -> Any:
    """Every count of descriptors left that is not enough, and what becomes of them."""
    capture = capturing()
    log = Log(NAME)
    before = open_fds()
    for script in ("echo 1", "echo 2 >&2", "exec >&- 2>&-"):
        ended(start(capture, log, script))
    try:
        with capture.outputs(log, 1) as outputs:
            spawn(Program(argv=["/nonexistent"], name=NAME, environ={}, fds=outputs))
    except SpawnRefusedError:
        pass
    await until(lambda: open_fds() == before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    reasons = []
    enough = 0
    while not enough:
        try:
            ended(start(capture, log, "echo enough"))
        except SpawnRefusedError as e:
            reasons.append([type(e.error).__name__, e.result.value, str(e.error)])
        else:
            enough = len(reasons)
        await all_ended(capture)
        os.close(taken.pop())
    for fd in taken:
        os.close(fd)
    await until(lambda: open_fds() == before)
    capture.close()
    return {"lines": lines(log), "enough": enough, "reasons": reasons}


def killed_broker() -> Any:
    """A service that writes when its broker has been killed; its words and its end."""
    kernel.become_subreaper()
    reader, writer = os.pipe()
    with pipe() as (gate, release):
        script = "echo ready >&3; read x <&4; echo 1; echo 2 >&2; echo alive >&3"
        broker = os.fork()
        if broker == 0:

            async def run() -> None:
                start(capturing(), Log(NAME), script, {3: writer, 4: gate})
                await asyncio.Event().wait()

            asyncio.run(run())
        os.close(writer)
        said = os.read(reader, 64)
        os.kill(broker, signal.SIGKILL)
        os.waitpid(broker, 0)
        release()
        while chunk := os.read(reader, 64):
            said += chunk
        _, status = os.waitpid(-1, 0)
        return [said.decode(), os.waitstatus_to_exitcode(status)]
