"""How the broker itself begins: its streams and its signals."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Any

from broker.errors import KernelRefused
from broker.process import clock, kernel, procfs, signals
from broker.process.spawn import Program, spawn
from tests.process.harness import in_child, pipe

if TYPE_CHECKING:
    from collections.abc import Sequence


def standard_streams(closed: Sequence[Sequence[int]]) -> Any:
    """Where the standard streams lead to when some were closed at the start."""
    return [in_child(_open_streams, each) for each in closed]


def _open_streams(closed: Sequence[int]) -> Any:
    for fd in (0, 1, 2):
        os.dup2(os.memfd_create(f"ours{fd}"), fd)
    for fd in closed:
        os.close(fd)
    before = _open_descriptors()
    signals.open_standard_streams()
    new = _open_descriptors() - before - set(closed)
    streams = [
        [os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd), _is_writable(fd)]
        for fd in (0, 1, 2)
    ]
    next_fd = os.open(os.devnull, os.O_RDONLY)
    return {"streams": streams, "new": sorted(new), "next is none": next_fd > 2}


def _open_descriptors() -> set[int]:
    """Found without a descriptor, as a listing of /proc would need."""
    found = set()
    for fd in range(1000):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            found.add(fd)
    return found


def _is_writable(fd: int) -> bool:
    try:
        os.write(fd, b"x")
    except OSError as e:
        return e.errno != errno.EBADF
    return True


def taking_over() -> Any:
    """Mask and disposition before and after, with the signals that were already blocked."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    inherited = signals.take_over({signal.SIGTERM})
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    default = signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    return [sorted(inherited.mask), sorted(mask), default]


def reading_signals() -> Any:
    """What a signalfd gives of signals from ourselves, from a child and of none."""
    chosen = [signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN]
    signal.pthread_sigmask(signal.SIG_BLOCK, chosen)
    fd = kernel.open_signalfd(chosen)
    found: list[Any] = [kernel.read_signalfd(fd)]
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    # More than one read takes.
    for _ in range(40):
        os.kill(os.getpid(), signal.SIGRTMIN)
    got = kernel.read_signalfd(fd)
    found.append([[number, code] for number, code in got[:2]])
    found.append([len(got), {number for number, _ in got[1:]} == {signal.SIGRTMIN}])
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found.append([[number, code] for number, code in kernel.read_signalfd(fd)])
    os.waitpid(pid, 0)
    found.append(os.get_inheritable(fd))
    # What is not chosen stays pending for others.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    os.kill(os.getpid(), signal.SIGUSR2)
    found.append([kernel.read_signalfd(fd), signal.SIGUSR2 in signal.sigpending()])
    return found


def refusal() -> Any:
    """The kernel has no descriptor left for signals."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        kernel.open_signalfd([signal.SIGCHLD])
    except KernelRefused as e:
        return [str(e), e.exit_status]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return None


def children_of_threads(child: str, count: int) -> Any:
    """A process each of whose threads has a child; both ways to find them."""
    with pipe() as (reader, release):
        report, theirs = os.pipe()
        argv = [child, "threads", "0", "wait", str(count)]
        program = Program(argv=argv, name="", environ={}, fds={3: reader, 4: theirs})
        pid = spawn(program)
        os.close(theirs)
        data = b""
        while len(data) < count:
            data += os.read(report, count)
        listed = procfs.children_of(pid)
        searched = procfs._children_by_parent(pid)  # noqa: SLF001 - for another kernel than this
        threads = len(os.listdir(f"/proc/{pid}/task"))
        parents = {about.ppid for each in listed if (about := procfs.stat(each))}
        release()
        # Its end is when the last of them has ended.
        rest = os.read(report, 1)
        os.waitpid(pid, 0)
    return {
        "listed": listed,
        "searched": searched,
        "threads": threads,
        "parents": parents == {pid},
        "rest": rest.decode(),
    }


def start_times(child: str, count: int) -> Any:
    """How far the start that /proc gives is from the moments around each spawn, in seconds."""
    found = []
    with pipe() as (reader, release):
        for _ in range(count):
            argv = [child, "plain", "0", "wait"]
            program = Program(argv=argv, name="", environ={}, fds={3: reader})
            before = [time.time(), time.monotonic()]
            pid = spawn(program)
            after = [time.time(), time.monotonic()]
            about = procfs.stat(pid)
            assert about is not None
            at = clock.of_ticks(about.start_ticks)
            moments = [at.realtime / 1_000_000, at.monotonic / 1_000_000]
            found.append(
                [
                    [moment - early, late - moment]
                    for moment, early, late in zip(moments, before, after, strict=True)
                ]
            )
        release()
        for _ in range(count):
            os.wait()
    return found
