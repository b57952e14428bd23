"""Deaths: one at a time, many at once, and while something goes wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from broker.core.exits import CLD_EXITED
from broker.process import procfs, reaper
from broker.process.spawn import Program, spawn
from tests.process.broker import Broker
from tests.process.harness import pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.process.reaper import Death
    from tests.process.harness import Event


async def exit_codes(child: str) -> Any:
    """A service for each exit code."""
    async with Broker() as broker:
        for code in range(256):
            broker.spawn([child, "plain", str(code), "now"], str(code))
        await broker.all_emptied(256)
        return broker.answer()


async def signals(child: str, numbers: Sequence[int]) -> Any:
    """A service for each signal, which it sends to itself; 111 says that it lived on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    async with Broker() as broker:
        for number in numbers:
            broker.spawn([child, "signal", "0", "now", str(number)], str(number))
        await broker.all_emptied(len(numbers))
        return broker.answer()


async def core_dump(child: str, directory: str) -> Any:
    """A service that may leave a core file."""
    os.chdir(directory)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    async with Broker() as broker:
        broker.spawn([child, "signal", "0", "now", str(int(signal.SIGABRT))], "org.test.Core")
        await broker.all_emptied(1)
        return broker.answer()


async def usage(child: str) -> Any:
    """What processes have used: little, much time, much time of a child, much memory."""
    work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    memory = f"x = bytearray({96 << 20}); x[::4096] = b'x' * {(96 << 20) // 4096}"
    async with Broker() as broker:
        broker.spawn([child, "daemon", "0", "now"], "little")
        broker.spawn(["/bin/sh", "-c", work], "time")
        broker.spawn(["/bin/sh", "-c", f"({work}) & wait; exit 0"], "waited")
        broker.spawn([sys.executable, "-I", "-S", "-c", memory], "memory")
        await broker.all_emptied(4)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        totals = {
            name: broker.supervisor.processes.usage(name).max_rss for name in ("little", "memory")
        }
        return {"events": broker.answer(), "own": own, "totals": totals}


async def many_children(child: str, count: int) -> Any:
    """Children of ours that die at the same moment."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            for number in range(count):
                broker.spawn([child, "plain", "pid", "wait"], f"org.test.N{number}", {3: reader})
            release()
            await broker.all_emptied(count)
            return {"events": broker.answer(), "left": _any_child()}


async def storm(child: str, mode: str, count: int) -> Any:
    """Orphans of one service, living ones that die at once or a stream of dying ones."""
    async with Broker() as broker:
        broker.count_turns()
        with pipe() as (reader, release):
            life = "wait" if mode == "burst" else "now"
            broker.spawn([child, mode, "pid", life, str(count)], "org.test.Storm", {3: reader})
            broker.spawn([child, "plain", "0", "wait"], "org.test.Other", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) > 0)
            release()
            await broker.all_emptied(2)
        live = len(broker.supervisor.processes)
        return {
            "events": broker.answer(),
            "live": live,
            "left": _any_child(),
            "reaped": broker.supervisor.processes.reaped,
            "turns": broker.turn,
        }


def _any_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _zombies(child: str, count: int) -> list[int]:
    pids = [
        spawn(Program(argv=[child, "plain", str(number), "now"], name="", environ={}))
        for number in range(count)
    ]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pids


class _WrongError(Exception):
    """What goes wrong."""


def reap_in_spite_of_errors(child: str) -> Any:
    """Each of the functions that are called for a zombie fails for one of three."""
    found = []
    for failing in ("identify", "on_death"):
        pids = _zombies(child, 3)
        seen: list[tuple[int, int]] = []
        identified: list[int] = []

        def identify(pid: int, failing: str = failing, identified: list[int] = identified) -> None:
            identified.append(pid)
            if failing == "identify" and len(identified) == 1:
                raise _WrongError

        def on_death(
            death: Death, failing: str = failing, seen: list[tuple[int, int]] = seen
        ) -> None:
            seen.append((death.pid, death.exit.status))
            if failing == "on_death" and len(seen) == 1:
                raise _WrongError

        raised = 0
        while True:
            try:
                if reaper.reap(identify, on_death):
                    break
            except _WrongError:
                raised += 1
        found.append(
            {
                "raised": raised,
                "identified": sorted(identified) == sorted(pids),
                "seen": sorted(seen) == [(pid, number) for number, pid in enumerate(pids)],
                "left": _any_child(),
            }
        )
    return found


def batches(child: str) -> Any:
    """How many are reaped in one go, and whether that says that more are left."""
    _zombies(child, reaper.BATCH + 1)
    found = []
    for _ in range(3):
        deaths: list[Death] = []
        last = reaper.reap(lambda _: None, deaths.append)
        found.append([len(deaths), last])
    return found


def nothing_to_reap(child: str) -> Any:
    """No child at all; only a living child."""
    found = [reaper.reap(lambda _: None, lambda _: None)]
    with pipe() as (reader, release):
        argv = [child, "plain", "0", "wait"]
        pid = spawn(Program(argv=argv, name="", environ={}, fds={3: reader}))
        found.append(reaper.reap(lambda _: None, lambda _: None))
        release()
    os.waitpid(pid, 0)
    return found


def zombie_while_identified(child: str) -> Any:
    """The state of a child when it is identified, and after it was reaped."""
    _zombies(child, 1)
    states: list[str | None] = []

    def look(pid: int) -> None:
        about = procfs.stat(pid)
        states.append(about.state if about else None)

    reaper.reap(look, lambda death: look(death.pid))
    return states


def _await_family() -> int:
    """Until all below us are zombies and ours; how many they are."""
    known: set[int] = set()
    while fresh := set(procfs.children()) - known:
        for pid in fresh:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        # What they have left became ours before they became zombies.
        known |= fresh
    return len(known)


async def events_that_fail(child: str, kind: str) -> Any:
    """The listener fails for one process, in the midst of many deaths at once."""
    async with Broker() as broker:
        failed = False

        def fail(event: Event) -> None:
            nonlocal failed
            if event.kind == kind and event.service == "org.test.N3" and not failed:
                # An orphan, not the spawned process: that would fail the spawn itself.
                if kind == "started" and event.origin == "spawned":
                    return
                failed = True
                raise _WrongError

        broker.on_event = fail
        for number in range(6):
            broker.spawn([child, "daemon", "3", "now"], f"org.test.N{number}")
        # In one turn of the loop: there is one SIGCHLD for them all, and no other.
        dead = _await_family()
        await broker.all_emptied(6)
        waited = await broker.supervisor.until(
            lambda: not len(broker.supervisor.processes), timeout=5
        )
        faults = [fault.strip().splitlines()[-1].rpartition(".")[2] for fault in broker.faults]
        broker.faults.clear()
        return {
            "dead": dead,
            "events": broker.answer(),
            "faults": faults,
            "waited": waited,
            "left": _any_child(),
        }


async def ignored_at_start(child: str) -> Any:
    """Our starter ignored SIGCHLD."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    async with Broker() as broker:
        broker.spawn([child, "daemon", "7", "now"], "org.test.Any")
        await broker.all_emptied(1)
        return broker.answer()


def ignored(child: str) -> Any:
    """What would be without the repair: the kernel reaps."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    pid = spawn(Program(argv=[child, "plain", "7", "now"], name="", environ={}))
    try:
        os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError as e:
        return errno.errorcode[e.errno or 0]
    return None


async def leaderless(child: str) -> Any:
    """A process whose first thread has ended looks dead, and is not."""
    async with Broker() as broker:
        report, theirs = os.pipe()
        with pipe() as (reader, release):
            process = broker.spawn(
                [child, "leaderless", "9", "wait"], "org.test.Any", {3: reader, 4: theirs}
            )
            await broker.receive(report, lambda data: data == b".")
            about = procfs.stat(process.pid)
            broker.supervisor.reap()
            before = [about.state if about else "", process.running]
            held = await _meanwhile(broker, child)
            release()
            await broker.all_emptied(2)
        return {"before": before, "held": held, "events": broker.answer()}


async def traced(child: str, mode: str) -> Any:
    """A dead process that a debugger holds on to is not ours to reap yet.

    By ``mode`` the debugger lets go when it ends ("trace"), or when it has seen the end of
    what it traced and goes on ("tracetoend"): then that is all that we are told.
    """
    async with Broker() as broker:
        report, theirs = os.pipe()
        with pipe() as (reader, release), pipe() as (for_tracer, release_tracer):
            process = broker.spawn([child, "plain", "9", "wait"], "org.test.Any", {3: reader})
            argv = [child, mode, "8", "wait", str(process.pid)]
            tracer = broker.spawn(argv, "org.test.Tracer", {3: for_tracer, 4: theirs})
            if await broker.receive(report, bool) != b".":
                return None
            dead = asyncio.Event()
            fd = os.pidfd_open(process.pid)
            broker.loop.add_reader(fd, dead.set)
            release()
            await dead.wait()
            broker.loop.remove_reader(fd)
            os.close(fd)
            broker.supervisor.reap()
            about = procfs.stat(process.pid)
            before = [about.state if about else "", process.running]
            held = await _meanwhile(broker, child)
            release_tracer()
            await broker.wait(lambda: not process.running)
            broker.supervisor.signal_process(tracer.pid, signal.SIGKILL)
            await broker.all_emptied(3)
        return {"before": before, "held": held, "events": broker.answer()}


async def _meanwhile(broker: Broker, child: str) -> Any:
    """What happens while there is a process that is dead and cannot be reaped."""
    broker.spawn([child, "daemon", "5", "now"], "org.test.Other")
    await broker.wait(lambda: len(broker.of_kind("emptied")) == 1)
    # A last SIGCHLD may wait whose child has been reaped already.
    await broker.next_turn()
    drains = 0
    original = reaper.reap

    def count(identify: Callable[[int], None], on_death: Callable[[Death], None]) -> bool:
        nonlocal drains
        drains += 1
        return original(identify, on_death)

    reaper.reap = count
    for _ in range(10):
        await broker.next_turn()
    reaper.reap = original
    return {"others": len(broker.exits("org.test.Other")), "drains": drains}


async def until_gone(child: str) -> Any:
    """Waiting for a condition: reached before, reached later, never, and given up."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            process = broker.spawn([child, "plain", "0", "wait"], "org.test.Any", {3: reader})
            found = [await broker.supervisor.until(lambda: True, None)]
            found.append(await broker.supervisor.until(lambda: not process.running, 0.01))
            task = broker.loop.create_task(
                broker.supervisor.until(lambda: not process.running, None)
            )
            await broker.next_turn()
            task.cancel()
            await broker.next_turn()
            found.append(task.cancelled())
            release()
            found.append(await broker.supervisor.until(lambda: not process.running, None))
            found.append(process.exit.code == CLD_EXITED)
        return found
