"""``demo``: the tour."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import options
from broker.core.exits import CLD_EXITED
from broker.engine import listen
from broker.engine.choose import CHOICES
from broker.errors import BadConfiguration, KernelRefused
from broker.process import procfs
from broker.process.signals import open_standard_streams
from broker.session.command import Patience, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.core.exits import Exit

# The program in the descriptors in services.d/.
PROGRAMS: Final = "dbus-activator-demo"
# The shell executes the second line, since the first may be too short for an interpreter's
# path; to Python it is a string.
_SCRIPT: Final = """\
#!/bin/sh
'''exec' {python} -P "$0" "$@"
'''
import sys

sys.path.append({package!r})
from broker.demo import main

main()
"""


@click.command("demo", short_help="A tour: services activated, daemonized, tracked and crashed.")
@click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="The message bus underneath.",
)
def command(engine: str) -> None:
    """A tour on a private bus: services activated, daemonized, tracked and crashed.

    \b
    Example:
      dbus-activator demo
    """
    open_standard_streams()
    options.log_to_stderr()
    environ = options.environment()
    with _programs() as directory:
        # In front: another program of that name may run another Python, or another broker.
        environ["PATH"] = f"{directory}{os.pathsep}{environ['PATH']}"
        program = os.path.join(directory, PROGRAMS)
        _without_broker(program)
        ended = _tour(program, engine, environ)
    if ended.code != CLD_EXITED or ended.status:
        sys.exit(1)
    print(f"The session has ended; processes left behind: {len(procfs.children())}")


def _tour(program: str, engine: str, environ: dict[str, str]) -> Exit:
    """Run the session of the tour, and return its command's exit."""
    chosen: dict[str, Any] = {
        "directories": [str(descriptors())],
        "standard_services": False,
        "engine": engine,
        "activation_timeout": 5.0,
        "handover_timeout": 5.0,
        "stop_timeout": 2.0,
        "start_limit": (0, 0.0),
        "output": "null",
    }
    with closing(listen.private(environ)) as listener:
        config = options.config(listener, environ, chosen)
        return run(config, [program, "tour"], Patience()).exit


def descriptors() -> Path:
    """The directory services.d/, in the installed package or beside the source."""
    package = Path(str(files("broker")))
    installed = package / "services.d"
    return installed if installed.is_dir() else package.parent / "services.d"


@contextmanager
def _programs() -> Iterator[str]:
    """A directory with the descriptors' program, run by this Python.

    The program is installed beside this Python, or not at all: ``python -m broker`` needs only
    the package.
    """
    beside = os.path.dirname(sys.executable)
    if os.access(os.path.join(beside, PROGRAMS), os.X_OK):
        yield beside
        return
    with tempfile.TemporaryDirectory(prefix="dbus-activator-demo-") as directory:
        path = os.path.join(directory, PROGRAMS)
        with open(path, "x", encoding="utf-8", opener=_executable) as file:
            package = os.path.dirname(str(files("broker")))
            file.write(_SCRIPT.format(python=shlex.quote(sys.executable), package=package))
        yield directory


def _executable(path: str, flags: int) -> int:
    return os.open(path, flags, 0o700)


def _without_broker(program: str) -> None:
    """A daemon without a supervisor, for comparison.

    Raises:
        KernelRefused: the program cannot be executed, as on a disk mounted with noexec.
        Broken: it does not run.
    """
    print("Without the broker: a program that daemonizes is lost to its starter")
    read, write = os.pipe()
    try:
        child = os.posix_spawn(
            program,
            [program, "orphan"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
        )
    except OSError as e:
        raise KernelRefused(f"the demo's program: {program}: {e.strerror}") from e
    finally:
        os.close(write)
    with os.fdopen(read) as answer:
        line = answer.readline()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not line:
            raise BadConfiguration(f"the demo's program does not run: {program}: status {status}")
        pid = int(line)
        about = procfs.stat(pid)
        assert about is not None
        print(f"{'PID':>9} {'PPID':>7}  COMMAND")
        print(f"{pid:>9} {about.ppid:>7}  {' '.join(procfs.command(pid))}")
        print(f"  (we are PID {os.getpid()}; only PID {about.ppid} can learn how it ends)")
        os.kill(pid, signal.SIGKILL)
        answer.read()  # its end closes the pipe
    print()
