"""Readers of /proc; each of them survives the end of its process in mid-read."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.core.printable import LONGEST, bounded
from broker.process import spare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# <linux/sched.h>: PF_EXITING and PF_DUMPCORE.
_PF_ENDING: Final = 0x4 | 0x200
_SIGKILL_PENDING: Final = 1 << (signal.SIGKILL - 1)
# A kernel may lack CONFIG_PROC_CHILDREN.
_HAS_CHILDREN: Final = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that are used here; times in clock ticks.

    Attributes:
        state: of the main thread, which may end before the others.
        threads: how many are left, the main thread included until it is reaped.
    """

    comm: str
    state: str
    ppid: int
    group: int
    session: int
    user_ticks: int
    system_ticks: int
    threads: int
    start_ticks: int

    @property
    def ended(self) -> bool:
        """Whether the process has ended, to its last thread."""
        return self.state in "ZX" and self.threads <= 1


def read(path: str, most: int = sys.maxsize) -> bytes | None:
    """A file of /proc, or its first ``most`` bytes; None if it is gone or may not be read.

    os.open and os.read: half the time of a buffered file object, which counts
    when thousands of processes end at once.
    """
    try:
        return _read(path, most)
    except OSError as e:
        if e.errno not in spare.FULL:
            return None
    with spare.borrowed(), contextlib.suppress(OSError):
        return _read(path, most)
    return None


def _read(path: str, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while most and (chunk := os.read(fd, min(most, 65536))):
            chunks.append(chunk)
            most -= len(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks)


def _names(directory: str) -> list[str]:
    """The names in a directory of /proc; empty if its process has gone."""
    try:
        return os.listdir(directory)
    except OSError as e:
        if e.errno not in spare.FULL:
            return []
    with spare.borrowed(), contextlib.suppress(OSError):
        return os.listdir(directory)
    return []


def stat(pid: int) -> Stat | None:
    """State and ancestry of a process, alive or a zombie."""
    data = read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The command may hold blanks and parentheses; the last ")" ends it.
    head, _, tail = data.rpartition(b")")
    fields = tail.split()
    return Stat(
        comm=head.partition(b"(")[2].decode("utf-8", "backslashreplace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def command(pid: int, about: Stat | None = None) -> tuple[str, ...]:
    """The command line; without one, the name in brackets, as ps shows it.

    Args:
        about: the result of ``stat``, which saves a look at a zombie.
    """
    if (about is None or not about.ended) and (words := arguments(pid)):
        return words
    about = about or stat(pid)
    return (f"[{about.comm}]",) if about else ()


def arguments(pid: int) -> tuple[str, ...]:
    """The command line, cut to ``LONGEST`` bytes; empty if there is none, as for a zombie.

    A process may have megabytes of arguments (a quarter of the limit on its stack), and
    may overwrite them; people read only the first ones.
    """
    # One byte beyond the limit shows that there are more.
    data = read(f"/proc/{pid}/cmdline", LONGEST + 1)
    if not data:
        return ()
    text = data.decode("utf-8", "backslashreplace").rstrip("\0")
    return tuple(bounded(text).split("\0"))


def cgroup(pid: int) -> str:
    """The cgroup v2 path, which a zombie keeps; empty for none."""
    data = read(f"/proc/{pid}/cgroup") or b""
    for line in data.splitlines():
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:].removesuffix(b" (deleted)"))
    return ""


def children() -> list[int]:
    """Our own children, including zombies and adopted ones.

    The kernel lists them by thread, and a subreaper's orphans go to any live one.
    """
    return children_of(os.getpid())


def children_of(pid: int) -> list[int]:
    """The children of any process; none if it has gone."""
    found = []
    for thread in _names(f"/proc/{pid}/task"):
        data = read(f"/proc/{pid}/task/{thread}/children")
        if data is None and not _HAS_CHILDREN:
            return _children_by_parent(pid)
        found += [int(child) for child in (data or b"").split()]
    return found


def _children_by_parent(parent: int) -> list[int]:
    found = []
    for name in _names("/proc"):
        about = stat(int(name)) if name.isdigit() else None
        if about is not None and about.ppid == parent:
            found.append(int(name))
    return found


def with_descendants(pids: Iterable[int]) -> list[int]:
    """The processes and all their descendants, parents before their children."""
    found = list(pids)
    for pid in found:
        found += children_of(pid)
    return found


def parent(pid: int) -> int:
    """The parent of a process, alive or a zombie; 0 if the process has gone."""
    about = stat(pid)
    return about.ppid if about else 0


def ancestors(pid: int) -> Iterator[int]:
    """The parent of a process, the parent's parent, and so on, as far as they live."""
    about = stat(pid)
    while about is not None and about.ppid > 0:
        above = stat(about.ppid)
        if above is None or above.start_ticks > about.start_ticks:
            # It has ended in between, and the new holder of its PID is no ancestor.
            return
        yield about.ppid
        about = above


def alive(pid: int) -> bool:
    """Whether a process exists and has a thread that runs."""
    about = stat(pid)
    return about is not None and not about.ended


def is_ending(pid: int) -> bool:
    """Whether a process is about to end: it exits, dumps core or is being killed.

    Between its last instruction and its time as a zombie, a process gives back its memory, and
    has no command line any more. A fatal signal (SIGKILL, or one with its default disposition)
    is pending as SIGKILL for each thread at once, long before the threads may take it.
    """
    return all(_thread_ends(f"/proc/{pid}/task/{thread}") for thread in _names(f"/proc/{pid}/task"))


def _thread_ends(path: str) -> bool:
    data = read(f"{path}/stat")
    if not data or int(data.rpartition(b")")[2].split()[6]) & _PF_ENDING:
        return True
    for line in (read(f"{path}/status") or b"").splitlines():
        if line.startswith(b"SigPnd:"):
            return bool(int(line.split()[1], 16) & _SIGKILL_PENDING)
    return True


def program(pid: int) -> str:
    """The base name of the file that a process executes; for a script, the interpreter's.

    If we may not read that, the base name of its first argument; else the name that ps shows.
    """
    try:
        path = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        about = stat(pid)
        path = next(iter(arguments(pid)), about.comm if about else "")
    return os.path.basename(path)


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of a process so far, without its waited-for children."""
    about = stat(pid)
    if about is None:
        return 0
    return (about.user_ticks + about.system_ticks) * 1_000_000_000 // TICKS_PER_SECOND


def peak_memory(pid: int) -> int:
    """The largest resident set of a live process, in bytes; 0 if it cannot be read."""
    for line in (read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def takes(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, or blocks it in order to read it."""
    masks = (b"SigCgt:", b"SigBlk:")
    return any(
        int(line.split()[1], 16) >> number - 1 & 1
        for line in (read(f"/proc/{pid}/status") or b"").splitlines()
        if line.startswith(masks)
    )
