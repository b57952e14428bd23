"""``serve``: a bus until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from broker import notify
from broker.cli import options
from broker.daemon import Config, Daemon
from broker.engine import listen
from broker.errors import BadConfiguration, Outcome
from broker.process import kernel, signals
from broker.process.spawn import close_on_exec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.engine.listen import Listener

log = logging.getLogger(__name__)

SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@click.command("serve", short_help="Run a bus until SIGTERM or SIGINT.")
@options.bus_options
@click.option(
    "--address",
    "where",
    metavar="ADDRESS",
    help="Listen there, such as unix:path=/run/my/bus. Default: $XDG_RUNTIME_DIR/bus, "
    "else a private directory under /tmp.",
)
@click.option(
    "--print-address",
    metavar="FD",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=1,
    help="Print the bus address on FD (default 1) when clients can be served.",
)
@click.option(
    "--print-pid",
    metavar="FD",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=1,
    help="Print the process ID on FD (default 1).",
)
def command(
    where: str | None, print_address: int | None, print_pid: int | None, **chosen: Any
) -> None:
    """Run a bus until SIGTERM or SIGINT; SIGHUP reads the descriptors again.

    \b
    Example:
      dbus-activator serve --services ./services.d --print-address
    """
    options.log_to_stderr()
    environ = options.environment()
    for fd in (print_address, print_pid):
        _check_open(fd)
    signals.open_standard_streams()
    signals.take_over(SIGNALS)
    passed = notify.passed_descriptor(environ)
    close_on_exec()
    with kernel.shortage_is_fault(), closing(_listener(passed, where, environ)) as listener:
        config = options.config(listener, environ, chosen)
        asyncio.run(_serve(config, print_address, print_pid))


def _listener(passed: int | None, where: str | None, environ: Mapping[str, str]) -> Listener:
    if passed is not None:
        return listen.from_descriptor(passed)
    if where is not None:
        return listen.from_option(where)
    return listen.default(environ)


async def _serve(config: Config, print_address: int | None, print_pid: int | None) -> None:
    fd = kernel.open_signalfd(SIGNALS)
    daemon = Daemon(config)
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(_first(daemon, fd))
    serving = loop.create_task(_bus(daemon, print_address, print_pid))
    try:
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        notify.notify(config.environ, "STOPPING=1")
        for task in (stopping, serving):
            task.cancel()
        outcomes = await asyncio.gather(stopping, serving, return_exceptions=True)
        await daemon.stop()
        os.close(fd)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


async def _bus(daemon: Daemon, print_address: int | None, print_pid: int | None) -> None:
    """Run the bus until somebody calls Exit, or it fails."""
    await daemon.start()
    _print(print_address, daemon.bus_address)
    _print(print_pid, str(os.getpid()))
    notify.notify(daemon.config.environ, "READY=1")
    await daemon.wait()


async def _first(daemon: Daemon, fd: int) -> None:
    """Return at the first signal that asks us to end."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        for number, _ in kernel.read_signalfd(fd):
            if number == signal.SIGHUP:
                # Not waited for: a bus that hangs would keep us from the next signal.
                reloads.add(task := loop.create_task(_reload(daemon)))
                task.add_done_callback(reloads.discard)
            else:
                ending.set()

    loop.add_reader(fd, on_signal)
    try:
        await ending.wait()
    finally:
        loop.remove_reader(fd)


async def _reload(daemon: Daemon) -> None:
    try:
        await daemon.reload()
    except Outcome as e:
        log.error("not reloaded: %s", e)


def _check_open(fd: int | None) -> None:
    if fd is not None:
        try:
            os.fstat(fd)
        except OSError as e:
            raise BadConfiguration(f"cannot print on descriptor {fd}: {e.strerror}") from e


def _print(fd: int | None, text: str) -> None:
    """One line; then the descriptor is closed, so that a reader sees the end.

    Standard output and error stay open: they are the services' too.
    """
    if fd is None:
        return
    try:
        os.write(fd, f"{text}\n".encode())
    except OSError as e:
        # Whoever waits for it would do so for ever.
        raise BadConfiguration(f"cannot print on descriptor {fd}: {e.strerror}") from e
    if fd > 2:
        os.close(fd)
