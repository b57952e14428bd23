"""What a child inherits, and programs that cannot be started."""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING, Any

from broker.process import spawn as spawning
from broker.process.spawn import Program, SpawnRefusedError, close_on_exec, raised_file_limit
from tests.process.broker import Broker
from tests.process.harness import pipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.process.supervisor import Supervisor


spawn = spawning.spawn


def by_fork(name: str, *arguments: Any) -> Any:
    """Another scenario, with programs started as those are whose exec may hang."""
    global spawn  # noqa: PLW0603 - in the scenario's own process
    spawn = _fork
    return globals()[name](*arguments)


def _fork(program: Program) -> int:
    """The PID of a program that is executed by now."""
    pid, fd = spawning.begin(program)
    with open(fd, "rb") as file:
        refused = spawning.outcome(program, file.read())
    if refused is not None:
        os.waitpid(pid, 0)
        raise refused
    return pid


def output(argv: Sequence[str], *, stream: int = 1, **options: Any) -> bytes:
    """What a program writes to one of its descriptors, until it has ended."""
    # A file in memory: nobody has to read it meanwhile.
    fd = os.memfd_create("output")
    fds = {stream: fd} | options.pop("fds", {})
    options = {"name": argv[0], "environ": {}} | options
    pid = spawn(Program(argv=argv, fds=fds, **options))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, argv
    data = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    return data


def _signal_sets(status: bytes) -> dict[str, list[int]]:
    found = {}
    for line in status.decode().splitlines():
        key, _, value = line.partition(":")
        if key in ("SigBlk", "SigIgn", "SigCgt"):
            bits = int(value, 16)
            found[key] = [number for number in range(1, 65) if bits >> (number - 1) & 1]
    return found


def signals() -> Any:
    """Masks and dispositions of a parent that has changed many, and of its children."""
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGRTMIN + 3):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda _number, _frame: None)
    blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGRTMIN + 2}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    with open("/proc/self/status", "rb") as file:
        parent = _signal_sets(file.read())
    argv = ["/bin/cat", "/proc/self/status"]
    mask = frozenset({signal.SIGTERM, signal.SIGUSR2})
    return {
        "parent": parent,
        "child": _signal_sets(output(argv)),
        "kept": _signal_sets(output(argv, reset_signals=False)),
        "masked": _signal_sets(output(argv, mask=mask)),
    }


def sessions() -> Any:
    """The PID, process group and session of children, and those of their parent."""
    found = []
    for session in (True, False):
        fields = output(["/bin/cat", "/proc/self/stat"], session=session).split()
        found.append([int(fields[0]), int(fields[4]), int(fields[5])])
    return {"own": found[0], "ours": found[1], "parent": [os.getpgrp(), os.getsid(0)]}


def standard_streams() -> Any:
    """Where the standard streams of children lead to; ours are files with names."""
    for fd in (0, 1, 2):
        os.dup2(os.memfd_create(f"ours{fd}"), fd)
    # The shell's streams, seen by a program whose own output goes elsewhere.
    paths = " ".join(f"/proc/$$/fd/{fd}" for fd in (0, 1, 2))
    argv = ["/bin/sh", "-c", f"(readlink {paths} >&3); :"]
    environ = {"PATH": os.defpath}
    found = {}
    for null_stdin in (True, False):
        for null_output in (True, False):
            text = output(
                argv, stream=3, null_stdin=null_stdin, null_output=null_output, environ=environ
            )
            found[f"{null_stdin},{null_output}"] = text.decode().splitlines()
    return found


def descriptors(child: str) -> Any:
    """The descriptors of a child whose parent has many, some from before it began."""
    ours = [os.memfd_create("ours") for _ in range(200)]
    for fd in ours[::2]:
        os.set_inheritable(fd, True)
    before = output([child, "fds", "0", "now"])
    changed = close_on_exec()
    again = close_on_exec()
    after = output([child, "fds", "0", "now"])
    given = output([child, "fds", "0", "now"], fds={7: ours[0], 150: ours[1]})
    return {
        "inheritable": ours[::2],
        "before": [int(fd) for fd in before.split()],
        "changed": changed,
        "again": again,
        "after": [int(fd) for fd in after.split()],
        "given": [int(fd) for fd in given.split()],
    }


def mappings(cases: Sequence[Sequence[tuple[int, int]]]) -> Any:
    """What children read from descriptors; each of ours holds its own number."""
    for fd in range(10, 50):
        file = os.memfd_create(str(fd))
        os.write(file, str(fd).encode())
        os.dup2(file, fd, inheritable=False)
        os.close(file)
    before = os.listdir("/proc/self/fd")
    found = []
    for case in cases:
        fds: dict[int, int] = dict(case)
        paths = [f"/proc/self/fd/{theirs}" for theirs in fds]
        # Its output has a number that is in nobody's way.
        target = os.memfd_create("output")
        fds = {1: target, **fds}
        pid = spawn(Program(argv=["/bin/cat", *paths], name="cat", environ={}, fds=fds))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = os.pread(target, 100, 0).decode()
        os.close(target)
        found.append([code, text])
    assert os.listdir("/proc/self/fd") == before
    return found


def environments() -> Any:
    """The environment of children, for each of some."""
    os.environ["OURS"] = "1"
    given: list[dict[str, str]] = [
        {},
        {"A": "b"},
        {"A": "", "B": "x=y", "C": "two\nlines", "D": "ü\udcff"},
    ]
    return [
        [
            sorted(f"{key}={value}" for key, value in environ.items()),
            sorted(
                os.fsdecode(each)
                for each in output(["/bin/cat", "/proc/self/environ"], environ=environ).split(b"\0")
                if each
            ),
        ]
        for environ in given
    ]


def arguments() -> Any:
    """Arguments as a child gets them."""
    given = ["/bin/cat", "/proc/self/cmdline", "/dev/null"]
    odd = ["/bin/sh", "-c", "cat /proc/$$/cmdline; :", "", "two\nlines", "ü\udcff", " "]
    environ = {"PATH": os.defpath}
    return [
        [argv, os.fsdecode(output(argv, environ=environ)).split("\0")[:-1]] for argv in (given, odd)
    ]


def search() -> Any:
    """A program named without a path, with and without the search for it."""
    os.environ["PATH"] = os.defpath
    return [
        output(["echo", "found"], search=True).decode(),
        _refusal(Program(argv=["echo"], name="echo", environ={})),
        _refusal(Program(argv=["no-such-program"], name="none", environ={}, search=True)),
    ]


def _refusal(program: Program, supervisor: Supervisor | None = None) -> list[str]:
    try:
        pid = spawn(program) if supervisor is None else supervisor.spawn(program).pid
    except SpawnRefusedError as e:
        return [type(e.error).__name__, e.result.value, str(e.error)]
    raise AssertionError(f"it was started: {program} {pid}")


def refusals(directory: str) -> Any:
    """Programs that cannot be executed; also, whether a process of them is left."""
    found = {}
    for name, program in _refused_programs(directory).items():
        found[name] = _refusal(program)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            continue
        found[name].append("there is a child")
    return found


def _refused_programs(directory: str) -> Mapping[str, Program]:
    def write(name: str, text: str, mode: int = 0o755) -> str:
        path = os.path.join(directory, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    busy = write("busy", "#!/bin/true\n")
    # Left open for as long as we live.
    os.open(busy, os.O_WRONLY)
    paths = {
        "missing": os.path.join(directory, "none"),
        "no permission": write("plain", "#!/bin/true\n", 0o644),
        "directory": directory,
        "no format": write("text", "echo text\n"),
        "no interpreter": write("script", "#!/nonexistent/interpreter\n"),
        "busy": busy,
        "under a file": os.path.join(busy, "program"),
        "empty": "",
        "long": os.path.join(directory, "x" * 300),
    }
    found = {
        name: Program(argv=[path], name=name, environ={}, session=name != "missing")
        for name, path in paths.items()
    }
    true = "/bin/true"
    found["NUL argument"] = Program(argv=[true, "a\0b"], name="NUL", environ={})
    found["NUL variable"] = Program(argv=[true], name="NUL", environ={"A": "a\0b"})
    found["bad variable"] = Program(argv=[true], name="bad", environ={"A=B": "x"})
    found["not UTF-8"] = Program(argv=[true, "\ud800"], name="bad", environ={})
    found["too much"] = Program(argv=[true, "x" * (1 << 18)], name="much", environ={})
    return found


def no_processes_left() -> Any:
    """A user who may have no more processes."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return _refusal(Program(argv=["/bin/true"], name="org.test.Many", environ={}))


def no_descriptors_left() -> Any:
    """A full table of descriptors, when one is to be given to the child."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    fds = []
    while True:
        try:
            fds.append(os.dup(0))
        except OSError:
            break
    program = Program(argv=["/bin/true"], name="org.test.Many", environ={}, fds={3: fds[0]})
    refused = _refusal(program)
    os.close(fds.pop())
    # One is enough.
    pid = spawn(program)
    return [refused, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


async def refused_activations(child: str, directory: str) -> Any:
    """Refused starts between two services that leave orphans."""
    async with Broker() as broker:
        with pipe() as (reader, release):
            broker.spawn([child, "daemon", "1", "wait"], "org.test.Before", {3: reader})
            refused = []
            for program in _refused_programs(directory).values():
                refused.append(_refusal(program, broker.supervisor)[0])
                await broker.next_turn()
            broker.spawn([child, "daemon", "2", "wait"], "org.test.After", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 4)
            release()
            await broker.all_emptied(2)
            await broker.wait(lambda: not len(broker.supervisor.processes))
        # A mark that is kept has no other sign than that memory is used.
        marks = broker.supervisor._activations._marks  # noqa: SLF001
        kept = [len(marks._tags), len(marks._cgroups), len(marks._leaders)]  # noqa: SLF001
        return {"refused": refused, "events": broker.answer(), "kept": kept}


def file_limits() -> Any:
    """The limit of descriptors of children, before, within and after it is raised."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
    argv = ["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn"]

    def limits() -> list[int]:
        return [int(each) for each in output(argv).split()]

    before = limits()
    with raised_file_limit():
        within = limits()
    after = limits()
    try:
        with raised_file_limit():
            raise KeyError
    except KeyError:
        pass
    return [before, within, after, limits(), list(resource.getrlimit(resource.RLIMIT_NOFILE))]
