"""Scenarios, each in a process of its own that is the broker for a while.

Being a subreaper, a lowered RLIMIT_LOCKS, a blocked SIGCHLD and ``waitid(P_ALL)``
are properties of a whole process, so no test may try them in pytest's. A test
calls ``run`` with a function of ``tests.process.scenarios``; that starts

    pytest -> guard -> scenario -> whatever it spawns

where the guard is a subreaper of its own: it ends the scenario at its deadline or
when pytest goes, then kills all that is left below it, removes the cgroups, and
says what it had to clean up. A scenario that leaves anything behind has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import importlib
import inspect
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from broker.process import cgroup, tag
from broker.process.tag import RLIMIT_LOCKS
from tests import others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


# All brokers here begin with the same tag, as any two may.
tag.STARTS = 1

ROOT: Final = Path(__file__).parent.parent.parent
NOBODY: Final = 65534
# No multiple of any stride: nothing can be tagged below it.
NO_TAGS: Final = (1 << 40) + 1
# Waiting inside a scenario ends first, so that its own message is the one that is seen.
WAIT: Final = 15.0
DEADLINE: Final = 25.0
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Setting:
    """Who the broker is, and which marks it can make.

    Attributes:
        user: None is the user of the tests.
        cgroup: with a cgroup of the scenario's own, given to the user.
    """

    user: int | None = None
    cgroup: bool = False
    tag: bool = True

    def __str__(self) -> str:
        """The identifier in pytest's output."""
        marks = [name for name in ("cgroup", "tag") if getattr(self, name)]
        who = "self" if self.user is None else f"uid{self.user}"
        return f"{who}-{'+'.join(marks) or 'neither'}"


TAG_ONLY: Final = Setting()


@dataclass(frozen=True, slots=True)
class Event:
    """What the supervisor said: ``kind`` is started, exited or emptied.

    Attributes:
        turn: of the event loop.
    """

    kind: str
    turn: int
    service: str
    activation: int
    pid: int = 0
    ppid: int = 0
    origin: str = ""
    attribution: str = ""
    command: Sequence[str] = ()
    code: int = 0
    status: int = 0
    user: int = 0
    system: int = 0
    max_rss: int = 0
    started: int = 0
    exited: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a scenario.

    Attributes:
        value: what its function returned.
        error: its traceback, or that it was too slow; empty for none.
        leftovers: processes and cgroups that the guard had to remove.
    """

    value: Any
    error: str
    leftovers: Sequence[str]


# -- in pytest's process -------------------------------------------------------------


def attempt(
    function: Callable[..., Any],
    *arguments: Any,
    setting: Setting = TAG_ONLY,
    becomes: int | None = None,
) -> Report:
    """Run a scenario, whatever comes of it.

    Args:
        becomes: the user that it makes itself; by default, that of the setting.
    """
    reader, writer = os.pipe()
    request = {
        "module": function.__module__,
        "function": function.__name__,
        "arguments": arguments,
        "setting": dataclasses.asdict(setting),
        "lifeline": reader,
    }
    code = "from tests.process.harness import guard; guard()"
    python, sources = sys.executable, ROOT
    user = setting.user if becomes is None else becomes
    if user is not None:
        # It goes on to import modules, and to start programs, as that user.
        python, sources = others.python(user), others.sources()
    process = subprocess.Popen(
        # Without site-packages, which nothing here needs: there are hundreds of starts.
        [python, "-S", "-W", "error", "-c", code, json.dumps(request)],
        cwd=sources,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[reader],
        start_new_session=True,
    )
    try:
        os.close(reader)
        output, errors = process.communicate(timeout=DEADLINE + 10)
    finally:
        # The guard takes this for an order to end everything, whatever went wrong here.
        os.close(writer)
        with process:
            pass
    assert process.returncode == 0, errors
    answer = json.loads(output)
    text = f"{answer['error']}\n{errors}" if answer["error"] else ""
    return Report(answer["value"], text, answer["leftovers"])


def run(
    function: Callable[..., Any],
    *arguments: Any,
    setting: Setting = TAG_ONLY,
    becomes: int | None = None,
) -> Any:
    """What a scenario returned; it must not fail, nor leave anything behind."""
    report = attempt(function, *arguments, setting=setting, becomes=becomes)
    assert not report.error, report.error
    assert not report.leftovers, report.leftovers
    return report.value


def events_of(value: Any) -> list[Event]:
    """The events in what a scenario returned."""
    return [Event(**each) for each in value]


def can_make_cgroups() -> bool:
    """Whether this user may make cgroups where it is."""
    path = _home_path()
    try:
        os.mkdir(path)
        os.rmdir(path)
    except OSError:
        return False
    return True


# -- the guard -------------------------------------------------------------------------

# The guard shares no code with what is under test: it would be blind where that is.
_libc: Final = ctypes.CDLL(None, use_errno=True)


def guard() -> None:
    """Run the scenario that the command line asks for."""
    request = json.loads(sys.argv[1])
    module = importlib.import_module(request["module"])
    function = getattr(module, request["function"])
    setting = Setting(**request["setting"])
    lifeline: int = request["lifeline"]
    os.set_inheritable(lifeline, False)
    # Not as on the host, which may have blocked some.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    assert _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    reader, writer = os.pipe()
    home = _home_path()
    with contextlib.suppress(OSError):
        os.mkdir(home)
    pid = os.fork()
    if pid == 0:
        os.close(lifeline)
        os.close(reader)
        _scenario(function, request["arguments"], setting, home, writer)
    os.close(writer)
    data, late = _await_answer(pid, reader, lifeline)
    leftovers = _sweep() + _remove_cgroups(home)
    if late:
        answer = {"value": None, "error": "ended by the guard: it was too slow"}
    else:
        answer = json.loads(data or b'{"value": null, "error": "it ended without an answer"}')
    print(json.dumps(answer | {"leftovers": leftovers}))  # noqa: T201 - the guard's answer


def _await_answer(pid: int, reader: int, lifeline: int) -> tuple[bytes, bool]:
    """Until the scenario has ended; its own answer, or that it was killed."""
    os.set_blocking(reader, False)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    for fd in (reader, lifeline, pidfd):
        poll.register(fd, select.POLLIN)
    data = b""
    end = time.monotonic() + DEADLINE
    while True:
        ready = [fd for fd, _ in poll.poll(max(0, end - time.monotonic()) * 1000)]
        if reader in ready:
            if chunk := os.read(reader, 1 << 16):
                data += chunk
                continue
            poll.unregister(reader)
        if pidfd in ready:
            os.waitpid(pid, 0)
            return data, False
        if lifeline in ready or not ready:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return data, True


def _sweep() -> list[str]:
    """Kill all processes below us; returns them."""
    found = [_describe(pid) for pid in _descendants()]
    while True:
        # Only our own children, whose PIDs cannot be anybody else's: what is
        # below them becomes our child when they end.
        for pid in _children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found += map(int, text.split())
    return found


def _descendants() -> list[int]:
    found = _children(os.getpid())
    for pid in found:
        found += _children(pid)
    return found


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return f"process {pid}"
    return f"process {pid} {state.decode()} {os.fsdecode(command)}"


def cgroup_mount() -> str:
    """Where the hierarchy of version 2 is; nowhere, if there is none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return line.split()[1]
    return "/nonexistent"


def _home_path() -> str:
    """A cgroup below our own, for one scenario."""
    own = ""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = line[3:].rstrip("/")
    return f"{cgroup_mount()}{own}/broker-test-{os.getpid()}"


def _remove_cgroups(home: str) -> list[str]:
    found = []
    for directory, _, _ in os.walk(home, topdown=False):
        if directory != home:
            found.append(f"cgroup {directory}")
        os.rmdir(directory)
    return found


# -- the scenario's process ----------------------------------------------------------


def _scenario(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    setting: Setting,
    home: str,
    writer: int,
) -> NoReturn:
    error = ""
    value = None
    try:
        _apply(setting, home)
        value = function(*arguments)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        data = json.dumps({"value": value, "error": ""})
    except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
        error = traceback.format_exc()
        data = json.dumps({"value": None, "error": error})
    os.set_blocking(writer, True)
    with open(writer, "w", encoding="ascii") as file:
        file.write(data)
    os._exit(0)


def _apply(setting: Setting, home: str) -> None:
    if os.path.isdir(home):
        enter_cgroup(home)
    if setting.cgroup:
        assert os.path.isdir(home), "no cgroup can be made"
        if setting.user is not None:
            for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(os.path.join(home, name), setting.user, setting.user)
    elif setting.user is None:
        # An ordinary user is refused by the kernel; whoever runs the tests may not be.
        hide_cgroups()
    if not setting.tag:
        resource.setrlimit(RLIMIT_LOCKS, (NO_TAGS, NO_TAGS))
    if setting.user is not None:
        become(setting.user)


def hide_cgroups() -> None:
    """Make this process find no cgroup hierarchy."""
    cgroup._mount_point = lambda: None  # noqa: SLF001 - the switch is not for the daemon


def enter_cgroup(path: str) -> None:
    """Move this process to the cgroup of a directory."""
    fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


def become(user: int) -> None:
    """Be an ordinary user from now on."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    # Changing user takes our own /proc files from us; a broker started as the
    # user, by exec, has them.
    assert _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) == 0


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fork of ours, for what must not happen to us."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        answer: dict[str, Any]
        try:
            value = function(*arguments)
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            answer = {"value": value}
        except BaseException:  # noqa: BLE001 - the parent raises it
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as file:
        data = file.read()
    os.waitpid(pid, 0)
    answer = json.loads(data)
    assert "error" not in answer, answer["error"]
    return answer["value"]


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor for children to read until the function is called, or the end."""
    reader, writer = os.pipe()
    closed = False

    def release() -> None:
        nonlocal closed
        if not closed:
            closed = True
            os.close(writer)

    try:
        yield reader, release
    finally:
        release()
        os.close(reader)
