"""Orphans of every kind, and what ends an activation."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.process import kernel, procfs, tag
from tests.process.broker import Broker
from tests.process.harness import ROOT, hide_cgroups, pipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.process.harness import Event


@dataclass(frozen=True, slots=True)
class Style:
    """How a process leaves its parent, after supervision.md 2b.

    Attributes:
        goers: how many of its processes fork and go, and are ours to reap.
        root: only root can do it.
        tag: False if the process that stays takes the tag from itself.
    """

    goers: int
    root: bool = False
    tag: bool = True


STYLES: Final = {
    "plain": Style(0),
    "background": Style(1),
    "daemon": Style(2),
    "reaped": Style(1),
    "emptyenv": Style(2),
    "overwritten": Style(2),
    "nobody": Style(2, root=True),
    "dumpable": Style(2),
    "limits": Style(2),
    "hard": Style(2),
    "lowered": Style(2, tag=False),
}


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A program that starts another one, as descriptors and init scripts use it.

    Attributes:
        argv: to be followed by the other's.
        root: only root can do it.
    """

    argv: Sequence[str]
    root: bool = False


_EXEC: Final = 'exec "$0" "$@"'
WRAPPERS: Final = {
    "env": Wrapper(["env", "-i"]),
    "nice": Wrapper(["nice"]),
    "nohup": Wrapper(["nohup"]),
    "prlimit": Wrapper(["prlimit", "--nofile=64", "--core=0"]),
    "setpriv": Wrapper(["setpriv", "--no-new-privs"]),
    "setsid": Wrapper(["setsid", "--fork"]),
    "sh": Wrapper(["sh", "-c", f"ulimit -S -n 64; ulimit -c 0; {_EXEC}"]),
    "start-stop-daemon": Wrapper(
        ["start-stop-daemon", "--start", "--background", "--pidfile=/nonexistent", "--startas"]
    ),
    "timeout": Wrapper(["timeout", "60"]),
    "runuser": Wrapper(["runuser", "-u", "nobody", "--"], root=True),
    "setpriv --reuid": Wrapper(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], root=True
    ),
    "su": Wrapper(["su", "-s", "/bin/sh", "-c", _EXEC, "nobody", "--"], root=True),
    "su -": Wrapper(["su", "-", "-s", "/bin/sh", "-c", _EXEC, "nobody", "--"], root=True),
}


# As a program: what a nested broker is started with.
INNER: Final = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.process.scenarios.ancestry import inner
inner()
"""


def key(event: Event) -> int:
    """The number of the service that an exited process really came from."""
    return event.status % 100


async def styles(
    child: str, chosen: Sequence[str], life: str, repetitions: int, switched_off: str
) -> Any:
    """Services of all styles at once; service number N says so by its exit status.

    ``switched_off`` is "subreaper", "hard limit", or nothing.
    """
    services: dict[int, str] = {}
    subreaper = switched_off != "subreaper"
    if switched_off == "hard limit":
        _tag_soft_limit_only()
    async with Broker(subreaper=subreaper) as broker:
        with pipe() as (reader, release):
            for style in [style for style in chosen for _ in range(repetitions)]:
                number = len(services) + 1
                services[number] = style
                broker.spawn([child, style, str(number), life], f"org.test.N{number}", {3: reader})

            def all_left() -> bool:
                gone = sum(each.status > 100 for each in broker.of_kind("exited"))
                return gone == sum(STYLES[style].goers for style in services.values())

            if life == "wait":
                await broker.wait(all_left)
                broker.supervisor.adopt()
            release()
            await broker.all_emptied(len(services))
            if subreaper:
                # Where there are no marks, the activation is over before its orphans.
                await broker.wait(lambda: not len(broker.supervisor.processes))
        return {"services": services, "events": broker.answer()}


def _tag_soft_limit_only() -> None:
    """Make a tag what it was at first: a soft limit, which anybody may raise."""
    original = resource.setrlimit
    line = re.compile(rb"^Max file locks +(\d+)", re.MULTILINE)

    def set_soft(which: int, limits: tuple[int, int]) -> None:
        original(which, (limits[0], resource.RLIM_INFINITY))

    def read_soft(pid: int, limit: int = tag.RLIMIT_LOCKS) -> int | None:
        del limit
        match = line.search(procfs.read(f"/proc/{pid}/limits") or b"")
        return int(match[1]) if match else None

    resource.setrlimit = set_soft
    tag.read = read_soft


async def wrapped(child: str, chosen: Sequence[str]) -> Any:
    """Daemons that are started by way of other programs; number N again says so at its end."""
    async with Broker() as broker:
        for number, name in enumerate(chosen, 1):
            argv = [*WRAPPERS[name].argv, child]
            # Behind "--", where it is not taken for one of its own options.
            argv += ["--"] * (name == "start-stop-daemon")
            argv += ["daemon", str(number), "now"]
            broker.spawn(argv, f"org.test.N{number}", search=True, null_output=True)
        await broker.all_emptied(len(chosen))
        await broker.wait(lambda: not len(broker.supervisor.processes))
        return broker.answer()


async def gathered(child: str, living: bool) -> Any:
    """Two services that keep their orphans to themselves; they are killed one after the other."""
    count = 8
    async with Broker() as broker:
        with pipe() as (reader, release):
            killed, trees, reports = [], [], []
            for number in (1, 2):
                report, theirs = os.pipe()
                argv = [child, "gather", str(number), "wait", str(count)]
                name = f"org.test.N{number}"
                killed.append(broker.spawn(argv, name, {3: reader, 4: theirs}))
                os.close(theirs)
                await broker.receive(report, bool)
                trees.append(len(broker.supervisor.tree(name)))
                reports.append(report)
            unseen = len(broker.events) == 2
            if not living:
                release()
                for report in reports:
                    await broker.at_end(report)
            for process in killed:
                broker.supervisor.signal_process(process.pid, signal.SIGKILL)
            await broker.wait(lambda: not any(process.running for process in killed))
            release()
            await broker.wait(lambda: not len(broker.supervisor.processes))
        return {"trees": trees, "unseen": unseen, "events": broker.answer()}


async def background_in_shell() -> Any:
    """An orphan that has stayed in its session, found alive."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            shell = ["/bin/sh", "-c", "read line <&3 & exit 7"]
            broker.spawn(shell, "org.test.Shell", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("started")) == 2)
            release()
            await broker.all_emptied(1)
        return broker.answer()


def subreaper_attribute() -> Any:
    """Before and after, and in a child, which does not inherit it."""
    before = kernel.is_subreaper()
    kernel.become_subreaper()
    kernel.become_subreaper()
    return [before, kernel.is_subreaper(), _is_subreaper_in_child()]


def _is_subreaper_in_child() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(int(kernel.is_subreaper()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


async def daemon_left(child: str) -> Any:
    """The first process ends with 0 long before the daemon that it leaves."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            shell = ["/bin/sh", "-c", '"$@" & exit 0', "sh", child, "daemon", "5", "wait"]
            broker.spawn(shell, "org.test.Daemon", {3: reader})
            await broker.wait(lambda: len(broker.exits("org.test.Daemon")) == 3)
            # What would be said too early is said by then.
            await broker.next_turn()
            before = len(broker.events)
            live = [(each.service, each.running) for each in broker.supervisor.processes.live()]
            release()
            await broker.all_emptied(1)
        return {"before": before, "live": live, "events": broker.answer()}


async def emptied(child: str) -> Any:
    """Many activations of one service, some with orphans, each emptied once."""
    count = 40
    async with Broker() as broker:
        for number in range(count):
            style = ("plain", "daemon", "reaped", "background")[number % 4]
            broker.spawn([child, style, "3", "now"], "org.test.Same")
        await broker.all_emptied(count)
        await broker.next_turn()
        return broker.answer()


async def stranger_beside_services(child: str) -> Any:
    """An orphan of a program that belongs to no service, and a live service."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            broker.spawn([child, "plain", "1", "wait"], "org.test.Other", {3: reader})
            broker.spawn([child, "daemon", "2", "now"])
            await broker.wait(lambda: len(broker.exits("")) == 3)
            release()
            await broker.all_emptied(2)
        return broker.answer()


async def after_emptied(child: str) -> Any:
    """A second activation of a service gets marks of its own."""
    async with Broker() as broker:
        for _ in range(2):
            already = len(broker.of_kind("emptied"))
            broker.spawn([child, "daemon", "3", "now"], "org.test.Again")
            await broker.all_emptied(already + 1)
        return broker.answer()


async def service_of(child: str) -> Any:
    """What is said of processes that are no children of ours."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            report, theirs = os.pipe()
            fds = {3: reader, 4: theirs}
            broker.spawn([child, "tree", "0", "wait", "2"], "org.test.Tree", fds)
            broker.spawn([child, "orphantree", "0", "wait", "1"], "", fds)
            data = await broker.receive(report, lambda data: data.count(b"\n") == 7 + 3)
            # The two that forked and went.
            await broker.wait(lambda: len(broker.of_kind("exited")) == 2)
            pids = [int(line.split()[0]) for line in data.splitlines()]
            services = [broker.supervisor.service_of(pid) for pid in pids]
            others = [os.getpid(), os.getppid(), 1]
            strangers = [broker.supervisor.service_of(pid) for pid in others]
            depths = [len(list(_up(pid))) for pid in pids]
            release()
            await broker.wait(lambda: not len(broker.supervisor.processes))
        gone = broker.supervisor.service_of(pids[0])
        return {"services": services, "depths": depths, "strangers": strangers, "gone": gone}


def _up(pid: int) -> Any:
    while pid not in (os.getpid(), 0):
        yield pid
        about = procfs.stat(pid)
        pid = about.ppid if about else 0


async def nested(child: str, cgroups: bool) -> Any:
    """A service that is a broker itself is killed in the midst of its work."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            report, theirs = os.pipe()
            argv = [sys.executable, "-c", INNER, child, "cgroups" if cgroups else ""]
            process = broker.spawn(argv, "org.test.Inner", {3: reader, 4: theirs})
            other = broker.spawn([child, "plain", "0", "wait"], "org.test.Other", {3: reader})
            await broker.receive(report, lambda data: data.count(b".") == 3)
            before = len(broker.events)
            broker.supervisor.signal_process(process.pid, signal.SIGKILL)
            await broker.wait(lambda: not process.running)
            # What the inner broker had adopted comes to the outer one now.
            broker.supervisor.adopt()
            live = [each for each in broker.supervisor.processes.live() if each.pid != other.pid]
            found = [(each.service, each.origin, each.attribution) for each in live]
            release()
            await broker.all_emptied(2)
        return {"before": before, "found": found, "events": broker.answer()}


def inner() -> None:
    """The broker that is a service: three daemons of its own, alive."""
    if not sys.argv[2]:
        hide_cgroups()

    async def scenario() -> None:
        async with Broker() as broker:
            for number in range(3):
                argv = [sys.argv[1], "daemon", "9", "wait"]
                broker.spawn(argv, f"org.test.Inner{number}", {3: 3})
            # The daemons, recorded by their service's names at this level.
            await broker.wait(lambda: len(broker.of_kind("exited")) == 6)
            names = {each.service for each in broker.supervisor.processes.live()}
            assert names == {f"org.test.Inner{number}" for number in range(3)}, names
            os.write(4, b"...")
            await broker.wait(lambda: False)

    asyncio.run(scenario())
