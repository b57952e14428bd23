"""All processes of a service: found, signalled, ended."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import select
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.process import procfs, tag
from broker.process.spawn import Program, spawn
from broker.process.tag import RLIMIT_LOCKS
from tests.process.broker import Broker
from tests.process.harness import WAIT, in_child, pipe

if TYPE_CHECKING:
    from broker.core.processes import Process


CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWPID: Final = 0x2000_0000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000


def _parents(report: bytes) -> dict[int, int]:
    """The parent of each process of a tree, as it says itself."""
    pairs = [line.split() for line in report.splitlines()]
    return {int(pid): int(parent) for pid, parent in pairs}


def _await(pid: int, change: int) -> None:
    """Until a child has changed; it is left for the broker to notice."""
    os.waitid(os.P_PID, pid, change | os.WNOWAIT)


async def trees(child: str) -> Any:
    """Trees below a living parent, below an orphan, and beside them."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            reports: dict[str, dict[int, int]] = {}
            for name, mode, depth in (("below", "tree", 3), ("orphan", "orphantree", 2)):
                report, theirs = os.pipe()
                argv = [child, mode, "0", "wait", str(depth)]
                broker.spawn(argv, name, {3: reader, 4: theirs})
                data = await broker.receive(report, partial(_is_complete, depth))
                reports[name] = _parents(data)
            single = broker.spawn([child, "plain", "0", "wait"], "single", {3: reader})
            stray = broker.spawn([child, "plain", "0", "wait"], "", {3: reader})
            # The two that forked and went are reaped by then.
            await broker.wait(lambda: len(broker.exits("orphan")) == 2)
            names = (None, "", "below", "orphan", "single", "unknown")
            found = {str(name): broker.supervisor.tree(name) for name in names}
            release()
            await broker.wait(lambda: not len(broker.supervisor.processes))
        return {
            "reports": reports,
            "single": single.pid,
            "stray": stray.pid,
            "found": found,
            "after": broker.supervisor.tree(None),
        }


def _is_complete(depth: int, report: bytes) -> bool:
    return report.count(b"\n") == (2 << depth) - 1


async def terminate(child: str, number: int) -> Any:
    """One signal to a service of 15 processes, beside another."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            report, theirs = os.pipe()
            argv = [child, "tree", "0", "pause", "3"]
            broker.spawn(argv, "org.test.Tree", {3: reader, 4: theirs})
            await broker.receive(report, lambda data: data.count(b"\n") == 15)
            broker.spawn([child, "plain", "7", "wait"], "org.test.Other", {3: reader})
            sent = broker.supervisor.signal("org.test.Tree", number)
            await broker.all_emptied(1)
            release()
            await broker.all_emptied(2)
            again = broker.supervisor.signal("org.test.Tree", number)
        return {"sent": sent, "again": again, "events": broker.answer()}


async def parents_that_end_first(child: str) -> Any:
    """A parent is gone before the signal to its children is sent."""
    original = os.pidfd_open

    def late(pid: int, flags: int = 0) -> int:
        about = procfs.stat(pid)
        assert about is not None
        if about.ppid != os.getpid():
            # It has had its signal: the broker sends to parents first.
            _await(about.ppid, os.WEXITED)
        return original(pid, flags)

    async with Broker() as broker:
        report, theirs = os.pipe()
        broker.spawn([child, "tree", "0", "pause", "1"], "org.test.Tree", {4: theirs})
        await broker.receive(report, lambda data: data.count(b"\n") == 3)
        os.pidfd_open = late
        sent = broker.supervisor.signal("org.test.Tree", signal.SIGINT)
        os.pidfd_open = original
        await broker.all_emptied(1)
        return {"sent": sent, "events": broker.answer()}


def as_first_process(child: str) -> Any:
    """The broker is process 1 of a container; None if there can be none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID | CLONE_NEWNS) != 0:
        return None
    # Ours from here on: what is mounted must not be seen outside.
    assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
    return in_child(_first_process, child)


async def _first_process(child: str) -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
    found: dict[str, Any] = {"pid": os.getpid()}
    async with Broker() as broker:
        report, theirs = os.pipe()
        broker.spawn([child, "tree", "0", "pause", "2"], "org.test.Tree", {4: theirs})
        data = await broker.receive(report, partial(_is_complete, 2))
        services = {broker.supervisor.service_of(pid) for pid in _parents(data)}
        found["services"] = [str(service) for service in services]
        found["sent"] = broker.supervisor.signal("org.test.Tree", signal.SIGTERM)
        await broker.all_emptied(1)
        broker.spawn([child, "daemon", "5", "now"], "org.test.Daemon")
        await broker.all_emptied(2)
        return found | {"events": broker.answer()}


async def stopped(child: str) -> Any:
    """Stopped processes, ours and below ours, are told to end, once."""
    async with Broker() as broker:
        report, theirs = os.pipe()
        broker.spawn([child, "stopped", "0", "pause"], "org.test.Below", {4: theirs})
        await broker.receive(report, lambda data: data == b".")
        own = broker.spawn([child, "plain", "0", "pause"], "org.test.Own")
        broker.supervisor.signal_process(own.pid, signal.SIGSTOP)
        _await(own.pid, os.WSTOPPED)
        states = [_state(pid) for pid in broker.supervisor.tree(None)]
        sent = [
            broker.supervisor.signal(name, signal.SIGTERM)
            for name in ("org.test.Below", "org.test.Own")
        ]
        await broker.all_emptied(2)
        return {"states": states, "sent": sent, "events": broker.answer()}


def _state(pid: int) -> str:
    about = procfs.stat(pid)
    return about.state if about else ""


async def stop_and_go_on(child: str) -> Any:
    """A process that is stopped and goes on has not ended."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            process = broker.spawn([child, "plain", "4", "wait"], "org.test.Any", {3: reader})
            broker.supervisor.signal_process(process.pid, signal.SIGSTOP)
            _await(process.pid, os.WSTOPPED)
            broker.supervisor.reap()
            stopped = [_state(process.pid), process.running]
            broker.supervisor.signal_process(process.pid, signal.SIGCONT)
            _await(process.pid, os.WCONTINUED)
            broker.supervisor.reap()
            release()
            await broker.all_emptied(1)
        return {"stopped": stopped, "events": broker.answer()}


async def ignoring(child: str) -> Any:
    """A service that ignores SIGTERM gets it, and has to be killed."""
    async with Broker() as broker:
        report, theirs = os.pipe()
        process = broker.spawn([child, "ignoring", "0", "pause"], "org.test.Any", {4: theirs})
        await broker.receive(report, lambda data: data == b".")
        sent = broker.supervisor.signal("org.test.Any", signal.SIGTERM)
        alive = procfs.alive(process.pid)
        killed = broker.supervisor.signal("org.test.Any", signal.SIGKILL)
        await broker.all_emptied(1)
        return {"sent": sent, "alive": alive, "killed": killed, "events": broker.answer()}


async def unseen(child: str) -> Any:
    """A service is killed of whose processes only the first is found."""
    original = procfs.children_of
    async with Broker() as broker:
        report, theirs = os.pipe()
        argv = [child, "tree", "0", "pause", "4"]
        broker.spawn(argv, "org.test.Tree", {4: theirs})
        await broker.receive(report, partial(_is_complete, 4))
        procfs.children_of = lambda pid: original(pid) if pid == os.getpid() else []
        sent = broker.supervisor.signal("org.test.Tree", signal.SIGKILL)
        await broker.all_emptied(1)
        return {"sent": sent, "events": broker.answer()}


async def in_one_blow(child: str) -> Any:
    """All processes of a service are dead before anything comes to us of them."""
    original = procfs.children_of
    async with Broker() as broker:
        report, theirs = os.pipe()
        argv = [child, "tree", "0", "pause", "4"]
        broker.spawn(argv, "org.test.Tree", {4: theirs})
        os.close(theirs)
        await broker.receive(report, partial(_is_complete, 4))
        procfs.children_of = lambda pid: original(pid) if pid == os.getpid() else []
        broker.supervisor.signal("org.test.Tree", signal.SIGKILL)
        # The end of the pipe is the end of the last process; the loop stands still.
        ready, _, _ = select.select([report], [], [], WAIT)
        procfs.children_of = original
        await broker.all_emptied(1)
        return {"dead": bool(ready) and os.read(report, 1) == b"", "events": broker.answer()}


async def killed_again(child: str) -> Any:
    """A killed service that was started again, and one that was not killed."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            for name in ("org.test.Any", "org.test.Other"):
                broker.spawn([child, "daemon", "1", "wait"], name, {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 4)
            sent = [broker.supervisor.signal("org.test.Any", signal.SIGKILL) for _ in range(2)]
            await broker.all_emptied(1)
            sent.append(broker.supervisor.signal("org.test.Any", signal.SIGKILL))
            broker.spawn([child, "daemon", "2", "wait"], "org.test.Any", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 7)
            release()
            await broker.all_emptied(3)
            await broker.wait(lambda: not len(broker.supervisor.processes))
        return {"sent": sent, "events": broker.answer()}


async def all_killed(child: str) -> Any:
    """Everything is killed, services and others; what is started later is not."""
    sent = []
    async with Broker() as broker:
        with pipe() as (reader, release):
            for mode in ("none", "plain", "daemon"):
                if mode != "none":
                    argv = [child, mode, "1", "wait"]
                    for name in ("org.test.Any", ""):
                        broker.spawn(argv, name, {3: reader})
                if mode == "daemon":
                    await broker.wait(lambda: _codes(broker).count(101) == 4)
                sent.append(broker.supervisor.signal(None, signal.SIGKILL))
                await broker.supervisor.until(lambda: not len(broker.supervisor.processes), WAIT)
                broker.spawn([child, "daemon", "2", "now"], "org.test.Later")
                await broker.supervisor.until(lambda: not len(broker.supervisor.processes), WAIT)
            release()
        return {"sent": sent, "events": broker.answer()}


def _codes(broker: Broker) -> list[int]:
    return [each.status for each in broker.of_kind("exited")]


async def hoppers(child: str, hops: int, by_service: bool) -> Any:
    """Processes that fork and go, again and again, each in a session of its own."""
    async with Broker() as broker:
        for _ in range(2):
            broker.spawn([child, "hop", "99", "now", str(hops)], "org.test.Hop")
        await broker.wait(lambda: len(broker.of_kind("exited")) > 20)
        rounds = 0
        while len(broker.supervisor.processes):
            rounds += 1
            broker.supervisor.signal("org.test.Hop" if by_service else None, signal.SIGKILL)
            await broker.supervisor.until(lambda: not len(broker.supervisor.processes), 0.02)
        return {"rounds": rounds, "events": broker.answer()}


def strangers(child: str) -> Any:
    """A broker is asked to signal a process that is not below it: its own sibling."""
    with pipe() as (reader, release):
        argv = [child, "plain", "5", "wait"]
        sibling = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))
        found = in_child(_signal_strangers, child, sibling)
        found["alive"] = os.waitid(os.P_PID, sibling, os.WEXITED | os.WNOHANG) is None
        release()
        found["code"] = os.waitstatus_to_exitcode(os.waitpid(sibling, 0)[1])
    return found


async def _signal_strangers(child: str, sibling: int) -> Any:
    async with Broker() as broker:
        gone = broker.spawn([child, "plain", "0", "now"], "org.test.Gone")
        await broker.all_emptied(1)
        own = broker.spawn([child, "plain", "0", "pause"], "org.test.Own")
        sent = {
            "sibling": [
                broker.supervisor.signal_process(sibling, number)
                for number in (signal.SIGTERM, signal.SIGKILL)
            ],
            "ourselves": broker.supervisor.signal_process(os.getpid(), signal.SIGKILL),
            "gone": broker.supervisor.signal_process(gone.pid, signal.SIGKILL),
            "own": broker.supervisor.signal_process(own.pid, signal.SIGKILL),
        }
        await broker.all_emptied(2)
        return {"sent": sent}


def same_tag(child: str) -> Any:
    """A service is killed that has the tag of a process which is not below the broker."""
    with pipe() as (reader, release):
        argv = [child, "plain", "5", "wait"]
        sibling = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))
        found = in_child(_kill_beside, child, sibling)
        release()
        found["code"] = os.waitstatus_to_exitcode(os.waitpid(sibling, 0)[1])
    return found


async def _kill_beside(child: str, stranger: int) -> Any:
    async with Broker() as broker:
        own = broker.spawn([child, "plain", "0", "pause"], "org.test.Own")
        value = tag.read(own.pid)
        assert value is not None
        resource.prlimit(stranger, RLIMIT_LOCKS, (value, value))
        broker.supervisor.signal("org.test.Own", signal.SIGKILL)
        # It is among the newest processes, or might be.
        hit = broker.supervisor._kills._killer.kill_each([stranger])  # noqa: SLF001 - as a chase does
        await broker.all_emptied(1)
        return {"same": tag.read(stranger) == value, "hit": hit}


def reused(child: str) -> Any:
    """A PID that was listed below us is a stranger's when the signal is sent."""
    with pipe() as (reader, release):
        argv = [child, "plain", "5", "wait"]
        sibling = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))
        found = in_child(_signal_listed, child, sibling)
        release()
        found["code"] = os.waitstatus_to_exitcode(os.waitpid(sibling, 0)[1])
    return found


async def _signal_listed(child: str, stranger: int) -> Any:
    original = procfs.children_of
    async with Broker() as broker:
        own = broker.spawn([child, "plain", "0", "pause"], "org.test.Own")
        procfs.children_of = lambda pid: [stranger] if pid == own.pid else original(pid)
        tree = broker.supervisor.tree("org.test.Own") == [own.pid, stranger]
        sent = broker.supervisor.signal("org.test.Own", signal.SIGKILL)
        procfs.children_of = original
        await broker.all_emptied(1)
        return {"tree": tree, "sent": sent}


async def another_users(child: str) -> Any:
    """A service with a process that we may not signal: it has become root."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("broker.process.supervisor").addHandler(handler)
    async with Broker() as broker:
        with pipe() as (reader, release):
            report, theirs = os.pipe()
            fds = {3: reader, 4: theirs}
            roots = broker.spawn([child, "reportroot", "5", "wait"], "org.test.Any", fds)
            await broker.receive(report, lambda data: data == b".")
            own = broker.spawn([child, "plain", "6", "wait"], "org.test.Any", fds)
            sent = broker.supervisor.signal("org.test.Any", signal.SIGTERM)
            await broker.wait(lambda: not own.running)
            alive = procfs.alive(roots.pid)
            release()
            await broker.all_emptied(2)
        warned = [message.replace(str(roots.pid), "PID") for message in messages]
        return {"sent": sent, "alive": alive, "warned": warned, "ends": _ends([roots, own])}


def _ends(processes: list[Process]) -> list[list[int]]:
    return [[process.exit.code, process.exit.status] for process in processes]
