"""Starts a program as our child, by posix_spawn, or by fork where that could hang.

posix_spawn is a vfork underneath: its cost does not grow with our memory, and
it reports a refused exec as an error of the call. But it returns only after the exec,
so never if the program's file system does not answer. A fork returns at once, for
some 2 ms more (it copies page tables, and the child runs Python), and the result of
the exec is read from a pipe later. Rejected: subprocess (a second owner of wait),
a trampoline program (a second exec for every activation), a thread that spawns (see
``forked``; and Python's posix_spawn holds the interpreter's lock).

Python's posix_spawn cannot set limits and the cgroup in the child, so we set them
on ourselves around the call, and the child inherits them. We are one thread, so
nothing else can see the state in between.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from broker.core import environment
from broker.core.exits import Result
from broker.core.printable import bounded
from broker.errors import DBusError, KernelRefused, LimitsExceeded, SpawnExecFailed, SpawnFailed
from broker.process.forked import fork, let_go, reset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Every signal whose disposition a program can have inherited. SIGKILL and
# SIGSTOP have none; the C library keeps two real-time signals for itself.
_ALL_SIGNALS: Final = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
# Python ignores these from its start on, whatever it was started with.
_PYTHONS: Final = {signal.SIGPIPE, signal.SIGXFSZ}
# Errors of a shortage in the system, not of the program.
_SHORTAGES: Final = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
# The errors after which posix_spawnp tries the next directory in PATH, besides EACCES.
_ELSEWHERE: Final = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENODEV,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# The first word of a child's report, before an errno, or the text of a ValueError.
_REFUSED: Final = "errno"
_INVALID: Final = "invalid"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start.

    Attributes:
        argv: at least the program's path.
        name: for messages.
        environ: its whole environment.
        search: look for the program in PATH, as a shell does; descriptors do not.
        null_stdin, null_output: /dev/null in place of our standard input, or of
            our standard output and error.
        fds: further descriptors, as child's number to ours.
        session: give it a session of its own; without, it keeps our terminal.
        mask: signals to be blocked in it.
        reset_signals: default dispositions for all; otherwise only for those
            that Python itself changed.
        explains: whether a refusal may quote its environment.
    """

    argv: Sequence[str]
    name: str
    environ: Mapping[str, str]
    search: bool = False
    null_stdin: bool = True
    null_output: bool = False
    fds: Mapping[int, int] = field(default_factory=dict)
    session: bool = True
    mask: frozenset[int] = frozenset()
    reset_signals: bool = True
    explains: bool = True


class SpawnRefusedError(Exception):
    """No process was started; carries the error for the waiters, and the service's Result."""

    def __init__(self, error: DBusError, result: Result) -> None:
        super().__init__(str(error))
        self.error = error
        self.result = result


def spawn(program: Program) -> int:
    """Start a program and return its PID.

    Raises:
        SpawnRefusedError: the program cannot be executed, or the system has no
            room for it.
    """
    function = os.posix_spawnp if program.search else os.posix_spawn
    try:
        with contextlib.ExitStack() as copies:
            return function(
                program.argv[0],
                list(program.argv),
                program.environ,
                file_actions=_file_actions(program, copies),
                setsid=program.session,
                setsigmask=program.mask,
                setsigdef=_ALL_SIGNALS if program.reset_signals else _PYTHONS,
            )
    except (OSError, ValueError) as e:
        raise _refusal(program, e) from e


def begin(program: Program) -> tuple[int, int]:
    """Start a program whose exec may hang.

    Returns:
        its PID, and a descriptor with its report for ``outcome``.

    Raises:
        SpawnRefusedError: the system has no room for it.
    """
    try:
        with contextlib.ExitStack() as copies:
            actions = _file_actions(program, copies)
            return fork(lambda report: _become(program, actions, report))
    except OSError as e:
        raise _refusal(program, e) from e


def outcome(program: Program, report: bytes) -> SpawnRefusedError | None:
    """The meaning of a child's whole report; None if the program runs, or was killed."""
    kind, _, text = report.decode("utf-8", "backslashreplace").partition(" ")
    if kind == _REFUSED:
        return _refusal(program, OSError(int(text), os.strerror(int(text))))
    return _refusal(program, ValueError(text)) if kind == _INVALID else None


def _become(program: Program, actions: list[Any], report: int) -> None:
    """In the child: execute the program, or say why not."""
    # A number that no descriptor of the program needs.
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, max(program.fds, default=0) + 1)
    try:
        if program.session:
            os.setsid()
        for kind, target, *what in actions:
            _act(kind, target, *what)
        let_go(report)
        # Before the exec, so that normal signals can end one that hangs.
        reset(frozenset() if program.reset_signals else _ignored(), program.mask)
        _execute(program)
    except OSError as e:
        os.write(report, f"{_REFUSED} {e.errno}".encode())
    except ValueError as e:
        os.write(report, f"{_INVALID} {e}".encode("utf-8", "backslashreplace"))


def _ignored() -> frozenset[int]:
    """The signals that a program which keeps our dispositions ignores."""
    ours = {each for each in _ALL_SIGNALS if signal.getsignal(each) is signal.SIG_IGN}
    return frozenset(ours - _PYTHONS)


def _act(kind: int, first: int, second: Any, *options: int) -> None:
    """One of ``_file_actions``, as posix_spawn does it."""
    if kind == os.POSIX_SPAWN_OPEN:
        source, target = os.open(second, *options), first
    else:
        source, target = first, second
    if source != target:
        os.dup2(source, target)
    os.set_inheritable(target, True)


def _execute(program: Program) -> NoReturn:
    """Execute the program; of several errors, raise the one that posix_spawnp would return."""
    argv, environ = list(program.argv), program.environ
    denied: OSError | None = None
    missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in paths(program):
        try:
            os.execve(path, argv, environ)
        except PermissionError as e:
            denied = e
        except OSError as e:
            if e.errno not in _ELSEWHERE:
                raise
            missing = e
    raise denied or missing


def paths(program: Program) -> list[str]:
    """The paths to try for the program, in order."""
    name = program.argv[0]
    if not program.search or "/" in name:
        return [name]
    # The PATH of our own environment; without it, the C library's default.
    directories = os.environ.get("PATH", "/bin:/usr/bin").split(":")
    return [os.path.join(each, name) for each in directories]


def _file_actions(program: Program, copies: contextlib.ExitStack) -> list[Any]:
    actions: list[Any] = []
    if program.null_stdin:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    if program.null_output:
        actions.append((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0))
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    # First copied above all of the child's numbers: one of ours may have the number that
    # another gets there, and dup2 of a number to itself would leave it close-on-exec.
    lowest = max(program.fds, default=0) + 1
    for theirs, ours in program.fds.items():
        copy = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, lowest)
        copies.callback(os.close, copy)
        actions.append((os.POSIX_SPAWN_DUP2, copy, theirs))
    return actions


def _refusal(program: Program, reason: OSError | ValueError) -> SpawnRefusedError:
    if isinstance(reason, ValueError):
        # A NUL in an argument or a variable, or "=" in a variable's name.
        text = f"Failed to execute program {program.name}: {reason}"
        return SpawnRefusedError(SpawnFailed(text), Result.RESOURCES)
    if reason.errno in _SHORTAGES:
        text = f"Failed to fork a new process {program.name}: {reason.strerror}"
        return SpawnRefusedError(LimitsExceeded(text), Result.RESOURCES)
    if reason.errno == errno.E2BIG and program.environ:
        text = f"Failed to execute program {program.name}: {reason.strerror}"
        if program.explains:
            text += (
                f": its environment has {environment.size(program.environ)} bytes, most of them "
                f"in {environment.shorten(environment.largest(program.environ))}"
            )
        return SpawnRefusedError(LimitsExceeded(text), Result.RESOURCES)
    # The reference implementation's words, plus the path, which it leaves out.
    path = bounded(program.argv[0])
    text = f"Failed to execute program {program.name}: {path}: {reason.strerror}"
    return SpawnRefusedError(SpawnExecFailed(text), Result.EXEC_FAILED)


def file_limit() -> tuple[int, int]:
    """RLIMIT_NOFILE, soft and hard; the usual values if a filter forbids the question."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return 1024, 1024


@contextlib.contextmanager
def raised_file_limit() -> Iterator[None]:
    """Raise the limit of descriptors to its maximum for programs spawned in the context.

    dbus-broker up to 37 dies when its soft limit is reached; services keep our
    original limit, since select() cannot see beyond 1024.
    """
    soft, hard = file_limit()
    if soft == hard:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def close_on_exec() -> list[int]:
    """Keep our inherited descriptors from services.

    Returns:
        the descriptors that were inheritable, except the standard streams.

    Raises:
        KernelRefused: there is no /proc, without which we could not find orphans either.
    """
    inherited = []
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError as e:
        raise KernelRefused("/proc is not mounted") from e
    for name in names:
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                os.set_inheritable(fd, False)
                inherited.append(fd)
        except OSError as e:
            # The descriptor that listed the directory.
            if e.errno != errno.EBADF:
                raise
    return inherited
