"""Brokers that are killed, and what becomes of what they had started."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.process import kernel, procfs, tag
from broker.process.killer import Killer
from broker.process.ownership import Ownership
from broker.process.spawn import Program, spawn
from broker.process.tag import RLIMIT_LOCKS, Tagger, draw_instance
from tests.process.broker import Broker
from tests.process.harness import WAIT, in_child, pipe

if TYPE_CHECKING:
    from collections.abc import Sequence


# Longer than a guardian takes on any machine; it comes to an end all the same.
HOPS: Final = 30_000
# From SIGTERM to SIGKILL: some do not take the first.
STOP_TIMEOUT: Final = 0.2
# Modes whose processes fork twice, and go.
DAEMONS: Final = {"daemon", "emptyenv", "nobody", "lowered", "sized"}


@dataclass(frozen=True, slots=True)
class Killable:
    """A broker in a process of its own, with its services there.

    Attributes:
        said: by it: its guardian's PID, its services', and their tags.
        held: the end of a pipe that every process of its services holds.
    """

    pid: int
    said: dict[str, Any]
    held: int

    def kill(self) -> float:
        """SIGKILL; returns seconds until the last of its services had ended, and its guardian."""
        watched = os.pidfd_open(self.said["guardian"])
        began = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        assert is_readable(self.held, WAIT), "services are left"
        took = time.monotonic() - began
        assert is_readable(watched, WAIT), "the guardian is left"
        os.close(watched)
        os.close(self.held)
        return took


def is_readable(fd: int, timeout: float) -> bool:
    """Whether there is something to read, or the end."""
    return bool(select.select([fd], [], [], timeout)[0])


def start(child: str, modes: Sequence[str], losses: int = 0) -> Killable:
    """A broker with one service of each mode.

    Args:
        losses: how many guardians it loses before.
    """
    reader, writer = os.pipe()
    held, holder = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.close(held)
        try:
            asyncio.run(_be_broker(child, modes, losses, writer, holder))
        finally:
            os._exit(1)
    os.close(writer)
    os.close(holder)
    with open(reader, encoding="ascii") as file:
        said = json.loads(file.readline())
    return Killable(pid, said, held)


async def _be_broker(
    child: str, modes: Sequence[str], losses: int, writer: int, holder: int
) -> None:
    async with Broker() as broker:
        broker.supervisor.guard(STOP_TIMEOUT)
        goers = 0
        found = []
        for mode in modes:
            # What a mode reports goes nowhere; that it holds the pipe is enough.
            process = broker.spawn([child, mode, "0", "pause", str(HOPS)], mode, {9: holder})
            found.append(process.pid)
            goers += {"hop": 20}.get(mode, 2 * (mode in DAEMONS))
        await broker.wait(lambda: len(broker.of_kind("exited")) >= goers)
        # One that is forked now bears the tag of the newest service.
        for _ in range(losses):
            await lose_guardian(broker)
        tags = [tag.read(pid) for pid in found]
        said = {"guardian": guardian_of(broker), "services": found, "tags": tags}
        os.write(writer, json.dumps(said).encode() + b"\n")
        await asyncio.Event().wait()


def guardian_of(broker: Broker) -> int:
    """The PID of a broker's guardian; 0 if it has none."""
    return broker.supervisor._guardian.pid  # noqa: SLF001 - nobody else needs to know it


async def lose_guardian(broker: Broker) -> None:
    """Kill a broker's guardian, and wait until it has taken note."""
    pid = guardian_of(broker)
    os.kill(pid, signal.SIGKILL)
    await broker.supervisor.until(lambda: guardian_of(broker) != pid, WAIT)


def reap_all() -> None:
    """Every child that there is, dead now."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def killed(child: str, modes: Sequence[str], losses: int) -> Any:
    """A broker is killed, beside a process that is none of its own."""
    kernel.become_subreaper()
    with pipe() as (reader, release):
        argv = [child, "plain", "5", "wait"]
        stranger = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))
        took = start(child, modes, losses).kill()
        alive = procfs.alive(stranger)
        release()
        code = os.waitstatus_to_exitcode(os.waitpid(stranger, 0)[1])
    reap_all()
    return {"alive": alive, "code": code, "took": took}


def side_by_side(child: str, depth: int) -> Any:
    """Two brokers within one activation of another that is so deep; one is killed."""
    if depth:
        assert Tagger().advance() is not None
        assert draw_instance() is not None
        return in_child(side_by_side, child, depth - 1)
    kernel.become_subreaper()
    # Of the activation itself, that the brokers are in.
    neighbour = spawn(Program(argv=[child, "plain", "0", "pause"], name="", environ={}))
    one, other = (start(child, ["plain", "daemon", "lowered", "sized"]) for _ in range(2))
    one.kill()
    alive = [procfs.alive(pid) for pid in (neighbour, other.pid, other.said["guardian"])]
    held = not is_readable(other.held, 0)
    other.kill()
    alive.append(procfs.alive(neighbour))
    os.kill(neighbour, signal.SIGKILL)
    reap_all()
    return {"tags": [one.said["tags"], other.said["tags"]], "alive": alive, "held": held}


def chased(child: str, guarded: bool) -> Any:
    """A broker kills all of a service, beside another's service that bears the same tag."""
    kernel.become_subreaper()
    other = start(child, ["plain"])
    try:
        # In a process of its own, since whatever is its child is its to kill.
        return in_child(_chase, child, other.said["services"][0], guarded)
    finally:
        other.kill()
        reap_all()


async def _chase(child: str, theirs: int, guarded: bool) -> Any:
    async with Broker() as broker:
        if guarded:
            broker.supervisor.guard()
        with pipe() as (reader, release):
            ours = broker.spawn([child, "plain", "0", "wait"], "org.test.Any", {3: reader})
            tags = [tag.read(pid) for pid in (ours.pid, theirs)]
            broker.supervisor.signal("org.test.Any", signal.SIGKILL)
            found = broker.supervisor._kills._killer.kill_each([theirs])  # noqa: SLF001 - as a chase does
            release()
        await broker.all_emptied(1)
        return {"tags": tags, "found": found, "alive": procfs.alive(theirs)}


def left_between(child: str) -> Any:
    """What was found is not ours any more when it is to be killed."""
    tags = Tagger()
    instance = draw_instance()
    found = tags.range
    assert instance is not None
    assert found is not None
    tags.advance()
    original = os.pidfd_open
    with pipe() as (reader, release):
        argv = [child, "plain", "5", "wait"]
        pid = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))

        def late(pid: int, flags: int = 0) -> int:
            # It leaves as a PID does that is given to somebody else.
            for limit in (RLIMIT_LOCKS, resource.RLIMIT_RSS):
                resource.prlimit(pid, limit, (0, 0))
            return original(pid, flags)

        os.pidfd_open = late
        looks = Ownership(instance, found, "").left
        before = looks(pid)
        found_alive = Killer(looks).kill_each([pid])
        os.pidfd_open = original
        after = looks(pid)
        release()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"before": before, "after": after, "killed": found_alive, "code": code}


async def lost(child: str, times: int) -> Any:
    """Guardians are killed, one after the other."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("broker.process.guardian").addHandler(handler)
    async with Broker() as broker:
        broker.supervisor.guard()
        process = broker.spawn([child, "plain", "0", "pause"], "org.test.Any")
        pids = [guardian_of(broker)]
        for _ in range(times):
            await lose_guardian(broker)
            pids.append(guardian_of(broker))
        broker.supervisor.adopt()
        live = [each.pid for each in broker.supervisor.processes.live()] == [process.pid]
        whose = [broker.supervisor.service_of(pid) for pid in pids if pid]
        tree = broker.supervisor.tree(None) == [process.pid]
        broker.supervisor.signal(None, signal.SIGKILL)
        await broker.all_emptied(1)
    return {
        "pids": len(set(pids)),
        "last": pids[-1],
        "live": live,
        "whose": whose,
        "tree": tree,
        "messages": messages,
        "events": broker.answer(),
    }


async def unmarked(child: str) -> Any:
    """A broker that can mark nothing is told to be guarded."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("broker.process.guardian").addHandler(handler)
    # An administrator's, such as ulimit -m sets it.
    resource.setrlimit(resource.RLIMIT_RSS, (1 << 30, 1 << 30))
    async with Broker() as broker:
        broker.supervisor.guard()
        broker.spawn([child, "plain", "0", "now"], "org.test.Any")
        await broker.all_emptied(1)
        return {"messages": messages, "guardian": guardian_of(broker)}


async def looks(child: str) -> Any:
    """What a guardian is to others, and what it has of the broker's."""
    async with Broker() as broker:
        broker.supervisor.guard()
        pid = guardian_of(broker)
        files = _files(pid)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(pid, number)
        about = procfs.stat(pid)
        assert about is not None
        broker.spawn([child, "plain", "0", "now"], "org.test.Any")
        await broker.all_emptied(1)
        alive = procfs.alive(pid)
    return {
        "name": about.comm,
        "leader": about.session == about.group == pid,
        "files": sorted(set(files)),
        "left": procfs.stat(pid) is not None,
        "alive": alive,
    }


def _files(pid: int) -> list[str]:
    """What a process has open, as soon as it has got rid of the rest."""
    end = time.monotonic() + WAIT
    while len(found := os.listdir(f"/proc/{pid}/fd")) > 5 and time.monotonic() < end:
        os.sched_yield()
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in found]
