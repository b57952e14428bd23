"""The directories of activations: made, waited in, removed, and not to be had."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.process import procfs
from tests.process.broker import Broker
from tests.process.harness import NOBODY, become, cgroup_mount, enter_cgroup, pipe

if TYPE_CHECKING:
    from collections.abc import Sequence


def _home() -> str:
    """The directory of the cgroup that we are in."""
    return cgroup_mount() + procfs.cgroup(os.getpid()).rstrip("/")


def _ours(home: str) -> list[str]:
    """The directories that a broker with our PID has in a cgroup."""
    return [each for each in os.listdir(home) if each.startswith(f"dbus-activator-{os.getpid()}-")]


async def life_of_directories(child: str) -> Any:
    """Where the broker and its services are, from the first spawn to the end."""
    home = _home()
    found: dict[str, Any] = {"home": home}

    def note(when: str) -> None:
        where = {"broker": cgroup_mount() + procfs.cgroup(os.getpid())}
        for process in broker.supervisor.processes.live():
            where[process.service] = cgroup_mount() + procfs.cgroup(process.pid)
        found[when] = {"where": where, "directories": sorted(_ours(home))}

    async with Broker() as broker:
        note("start")
        with pipe() as (first, release_first), pipe() as (second, release_second):
            broker.spawn([child, "plain", "1", "wait"], "first", {3: first})
            note("spawned")
            await broker.next_turn()
            note("turn")
            broker.spawn([child, "plain", "2", "wait"], "second", {3: second})
            broker.spawn([child, "plain", "3", "wait"], "third", {3: second})
            await broker.next_turn()
            note("three")
            release_first()
            await broker.all_emptied(1)
            note("one gone")
            release_second()
            await broker.all_emptied(3)
            note("all gone")
    note("end")
    return found


async def at_the_root(child: str) -> Any:
    """A broker in the root of the hierarchy, whose path ends with a slash by itself."""
    home = _home()
    enter_cgroup(cgroup_mount())
    try:
        async with Broker() as broker:
            before = len(_ours(cgroup_mount()))
            broker.spawn([child, "daemon", "1", "now"], "org.test.Any")
            await broker.all_emptied(1)
        return {"events": broker.answer(), "before": before, "after": _ours(cgroup_mount())}
    finally:
        enter_cgroup(home)


async def killed_at_once(child: str) -> Any:
    """Services that are killed while the broker still waits in their cgroup, and later."""
    async with Broker() as broker:
        for turns in range(3):
            name = f"org.test.N{turns}"
            broker.spawn([child, "daemon", "0", "pause"], name)
            broker.spawn([child, "plain", "0", "pause"], name)
            for _ in range(turns):
                await broker.next_turn()
            while not broker.exits(name) or broker.supervisor.processes.of_service(name):
                broker.supervisor.signal(name, signal.SIGKILL)
                gone = partial(_has_gone, broker, name)
                await broker.supervisor.until(gone, 0.02)
        await broker.all_emptied(6)
        return broker.answer()


def _has_gone(broker: Broker, service: str) -> bool:
    return not broker.supervisor.processes.of_service(service)


async def moved_on(child: str) -> Any:
    """A service moves itself to a cgroup below its own."""
    script = (
        f"read line < /proc/self/cgroup; d={cgroup_mount()}$(sed -n s/^0:://p /proc/self/cgroup);"
        'mkdir "$d/below" && echo 0 > "$d/below/cgroup.procs" && exec "$@"'
    )
    async with Broker() as broker:
        argv = ["/bin/sh", "-c", script, "sh", child, "daemon", "1", "now"]
        broker.spawn(argv, "org.test.Below")
        await broker.all_emptied(1)
        return broker.answer()


async def delegated_in_part(child: str) -> Any:
    """Directories may be made, but nobody may be moved there."""
    home = _home()
    os.chown(home, NOBODY, NOBODY)
    become(NOBODY)
    async with Broker() as broker:
        directories = _ours(home)
        broker.spawn([child, "daemon", "1", "now"], "org.test.Any")
        await broker.all_emptied(1)
        return {"directories": directories, "events": broker.answer()}


def _allow_descendants(directory: str, count: int) -> None:
    with open(f"{directory}/cgroup.max.descendants", "w", encoding="ascii") as file:
        file.write(str(count))


async def no_more_directories(child: str, names: Sequence[str]) -> Any:
    """The hierarchy is full after the first activations."""
    home = _home()
    _allow_descendants(home, 2)
    async with Broker() as broker:
        with pipe() as (reader, release):
            for number, name in enumerate(names):
                broker.spawn([child, "daemon", str(number), "wait"], name, {3: reader})
                await broker.next_turn()
            await broker.wait(lambda: len(broker.of_kind("exited")) == 2 * len(names))
            broker.supervisor.adopt()
            live = [[each.service, each.attribution] for each in broker.supervisor.processes.live()]
            cgroups = [
                procfs.cgroup(each.pid).rpartition("/")[2]
                for each in broker.supervisor.processes.live()
            ]
            where = cgroup_mount() + procfs.cgroup(os.getpid())
            release()
            await broker.all_emptied(len(names))
            await broker.wait(lambda: not len(broker.supervisor.processes))
            left = _ours(home)
        return {
            "events": broker.answer(),
            "live": live,
            "cgroups": len(set(cgroups)),
            "home": home == where,
            "left": left,
        }


async def stuck(child: str) -> Any:
    """Moving is forbidden from the first activation on: there is no way back either."""
    home = _home()
    async with Broker() as broker:
        with pipe() as (reader, release):
            os.chmod(f"{home}/cgroup.procs", 0o444)
            broker.spawn([child, "daemon", "0", "wait"], "org.test.N0", {3: reader})
            await broker.next_turn()
            where = procfs.cgroup(os.getpid())
            for number in (1, 2):
                argv = [child, "daemon", str(number), "wait"]
                broker.spawn(argv, f"org.test.N{number}", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 6)
            # In the same cgroup as its processes, we must not be killed with them.
            while broker.supervisor.processes.of_service("org.test.N0"):
                broker.supervisor.signal("org.test.N0", signal.SIGKILL)
                await broker.supervisor.until(
                    lambda: not broker.supervisor.processes.of_service("org.test.N0"), 0.02
                )
            release()
            await broker.all_emptied(3)
            await broker.wait(lambda: not len(broker.supervisor.processes))
    stuck = _home() == cgroup_mount() + where != home
    os.chmod(f"{home}/cgroup.procs", 0o644)
    enter_cgroup(home)
    os.rmdir(cgroup_mount() + where)
    return {"stuck": stuck, "events": broker.answer(), "left": _ours(home)}
