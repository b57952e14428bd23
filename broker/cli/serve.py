"""``serve``: a bus until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import numbers, options
from broker.engine import listen
from broker.errors import BadConfiguration, DBusError
from broker.process import kernel, sd_daemon, signals
from broker.process.spawn import close_on_exec
from broker.session.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.catalog.busconfig import BusConfig
    from broker.engine.listen import Listener
    from broker.session.config import Config

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
    type=numbers.DESCRIPTOR,
    is_flag=False,
    flag_value=1,
    help="Print the bus address on FD (default 1) when clients can be served.",
)
@click.option(
    "--print-pid",
    metavar="FD",
    type=numbers.DESCRIPTOR,
    is_flag=False,
    flag_value=1,
    help="Print the process ID on FD (default 1).",
)
@click.option(
    "--lifeline",
    metavar="FD",
    type=numbers.DESCRIPTOR,
    help="End at the end of file of FD, or, for a pidfd, at the end of its process: with our "
    "starter, however that ends.",
)
def command(
    where: str | None,
    print_address: int | None,
    print_pid: int | None,
    lifeline: int | None,
    **chosen: Any,
) -> None:
    """Run a bus until SIGTERM or SIGINT; SIGHUP reads the descriptors again.

    The hangup of its terminal, the kernel's own SIGHUP, ends it.

    \b
    Example:
      dbus-activator serve --services ./services.d --print-address
    """
    options.log_to_stderr()
    environ = options.environment()
    for fd in (print_address, print_pid):
        check_open(fd, "print on")
    check_open(lifeline, "use")
    signals.open_standard_streams()
    signals.take_over(SIGNALS)
    passed = sd_daemon.passed_descriptor(environ)
    close_on_exec()
    found = options.bus_config(chosen["config_file"], environ)
    with (
        kernel.shortage_is_fault(),
        closing(_listener(passed, where, found, environ)) as listener,
    ):
        config = options.config(listener, environ, chosen, found)
        kernel.check()
        asyncio.run(serve(config, print_address, print_pid, lifeline=lifeline))


def _listener(
    passed: int | None, where: str | None, found: BusConfig, environ: Mapping[str, str]
) -> Listener:
    if passed is not None:
        return listen.from_descriptor(passed)
    if where is not None:
        return listen.from_option(where)
    return options.listener_of(found) or listen.default(environ)


async def serve(
    config: Config,
    print_address: int | None,
    print_pid: int | None,
    on_ready: Callable[[], None] = lambda: None,
    lifeline: int | None = None,
) -> None:
    """Run a bus until a signal, or a call of Exit.

    Args:
        print_address, print_pid: descriptors to print on when the bus accepts clients.
        on_ready: called then.
        lifeline: a descriptor; its end also ends the bus.

    Raises:
        Fault: the bus failed.
    """
    fd = kernel.open_signalfd(SIGNALS)
    loop = asyncio.get_running_loop()
    async with Daemon.open(config) as daemon:
        stopping = loop.create_task(_first(daemon, fd, lifeline))
        serving = loop.create_task(_bus(daemon, print_address, print_pid, on_ready))
        try:
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sd_daemon.notify(config.environ, "STOPPING=1")
            for task in (stopping, serving):
                task.cancel()
            outcomes = await asyncio.gather(stopping, serving, return_exceptions=True)
    os.close(fd)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


async def _bus(
    daemon: Daemon,
    print_address: int | None,
    print_pid: int | None,
    on_ready: Callable[[], None],
) -> None:
    """Run the bus until a call of Exit, or a failure."""
    await daemon.start()
    _print(print_address, daemon.bus_address)
    _print(print_pid, str(os.getpid()))
    sd_daemon.notify(daemon.config.environ, "READY=1")
    on_ready()
    await daemon.wait()


async def _first(daemon: Daemon, fd: int, lifeline: int | None) -> None:
    """Return at the first signal to terminate, or at the end of our lifeline."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        for number, code in kernel.read_signalfd(fd):
            if number == signal.SIGHUP and code == kernel.SI_KERNEL:
                # Our terminal has gone. Under nohup the signal is ignored, but a blocked
                # signal is read even so.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    ending.set()
            elif number == signal.SIGHUP:
                # Not awaited: a bus that hangs would delay the next signal.
                reloads.add(task := loop.create_task(_reload(daemon)))
                task.add_done_callback(reloads.discard)
            else:
                ending.set()

    def on_lifeline() -> None:
        if lifeline is not None and _has_ended(lifeline):
            loop.remove_reader(lifeline)
            ending.set()

    loop.add_reader(fd, on_signal)
    if lifeline is not None:
        _watch(lifeline, on_lifeline)
    try:
        await ending.wait()
    finally:
        loop.remove_reader(fd)
        if lifeline is not None:
            loop.remove_reader(lifeline)


def _watch(lifeline: int, on_readable: Callable[[], None]) -> None:
    try:
        asyncio.get_running_loop().add_reader(lifeline, on_readable)
    except PermissionError as e:  # a file or /dev/null: epoll refuses them, and they never change
        raise BadConfiguration(f"cannot use descriptor {lifeline}: not a pipe or pidfd") from e


def _has_ended(lifeline: int) -> bool:
    """Whether a readable descriptor is at its end.

    Rejected: PR_SET_PDEATHSIG, the kernel's own way. It reports the end of the thread that
    started us, not of its process, and nothing if that ended before.
    """
    try:
        return not os.read(lifeline, 4096)
    except OSError as e:
        # A pidfd is readable to poll when its process has ended; read(2) always refuses it.
        if e.errno == errno.EINVAL:
            return True
        raise


async def _reload(daemon: Daemon) -> None:
    try:
        await daemon.reload()
    except DBusError as e:
        log.error("not reloaded: %s", e)


def check_open(fd: int | None, what: str) -> None:
    """Refuse a descriptor that is not open.

    Args:
        what: such as "print on", for the message.

    Raises:
        BadConfiguration: it is not open.
    """
    if fd is not None:
        try:
            if fd in signals.absent:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            os.fstat(fd)
        except OSError as e:
            raise BadConfiguration(f"cannot {what} descriptor {fd}: {e.strerror}") from e


def _print(fd: int | None, text: str) -> None:
    """One line; then the descriptor is closed, so that a reader sees the end.

    Standard output and error stay open: they are the services' too.
    """
    if fd is None:
        return
    try:
        os.write(fd, f"{text}\n".encode())
    except OSError as e:
        # A reader would wait for it for ever.
        raise BadConfiguration(f"cannot print on descriptor {fd}: {e.strerror}") from e
    if fd > 2:
        os.close(fd)
