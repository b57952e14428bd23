"""``demo``: the tour."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from broker.cli import options
from broker.core.exits import CLD_EXITED
from broker.engine import listen
from broker.engine.choose import CHOICES
from broker.process import procfs
from broker.process.signals import open_standard_streams
from broker.session import run


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
    _without_broker()
    environ = options.environment()
    chosen: dict[str, Any] = {
        "directories": [str(descriptors())],
        "standard_services": False,
        "engine": engine,
        "activation_timeout": 5.0,
        "stop_timeout": 2.0,
        "output": "null",
    }
    with closing(listen.private(environ)) as listener:
        config = options.config(listener, environ, chosen)
        ended = run(config, [sys.executable, "-P", "-m", "broker.demo.tour"])
    if ended.exit.code != CLD_EXITED or ended.exit.status:
        sys.exit(1)
    print(f"The session has ended; processes left behind: {len(procfs.children())}")


def descriptors() -> Path:
    """The directory services.d/, in an installed package or beside it in the source."""
    package = Path(str(files("broker")))
    installed = package / "services.d"
    return installed if installed.is_dir() else package.parent / "services.d"


def _without_broker() -> None:
    """A daemon that nobody looks after, to compare with."""
    print("Without the broker: a program that daemonizes is lost to whoever started it")
    read, write = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "broker.demo", "orphan"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    with os.fdopen(read) as answer:
        pid = int(answer.readline())
        os.waitpid(child, 0)
        about = procfs.stat(pid)
        assert about is not None
        print(f"{'PID':>9} {'PPID':>7}  COMMAND")
        print(f"{pid:>9} {about.ppid:>7}  {' '.join(procfs.command(pid))}")
        print(f"  (we are PID {os.getpid()}; how it ends, PID {about.ppid} will know, if anybody)")
        os.kill(pid, signal.SIGKILL)
        answer.read()  # its end closes the pipe
    print()
