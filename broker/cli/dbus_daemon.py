"""The stand-in for dbus-daemon: called by that name, with its options, by unchanged programs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from broker import __version__
from broker.bus import address as addresses
from broker.bus.connection import Connection
from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.cli import numbers, options, serve
from broker.engine import listen
from broker.errors import BadConfiguration
from broker.process import kernel, pidfile, sd_daemon, signals
from broker.process.background import Background
from broker.process.spawn import close_on_exec
from broker.services.limits import Limits, Output
from broker.session.config import Config
from broker.session.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.catalog.busconfig import BusConfig
    from broker.engine.listen import Listener

# The directories of dbus-daemon's two standard files; some distributions have them in /etc.
_DIRECTORIES: Final = ("/usr/share/dbus-1", "/usr/local/share/dbus-1", "/etc/dbus-1")
# The address for the socket of LISTEN_FDS.
_PASSED: Final = "systemd:"


@click.command(
    "dbus-daemon",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Diagnostics go to standard error, regardless of the syslog options.",
)
@click.version_option(__version__, "--version", prog_name="dbus-activator")
@click.option("--session", is_flag=True, help="Use the session bus's configuration file.")
@click.option("--system", is_flag=True, help="Use the system bus's configuration file.")
@click.option("--config-file", metavar="FILE", help="Use this configuration file.")
@click.option(
    "--address", "where", metavar="ADDRESS", help="Listen there, not where the file says."
)
@click.option(
    "--print-address",
    metavar="FD",
    type=numbers.DESCRIPTOR,
    is_flag=False,
    flag_value=1,
    help="Print the bus address on FD (default 1).",
)
@click.option(
    "--print-pid",
    metavar="FD",
    type=numbers.DESCRIPTOR,
    is_flag=False,
    flag_value=1,
    help="Print the process ID of the bus on FD (default 1).",
)
@click.option(
    "--fork/--nofork",
    default=None,
    help="Go on in the background when clients can be served, or do not; overrides the file.",
)
@click.option("--nopidfile", is_flag=True, help="Write no PID file; overrides the file.")
@click.option("--introspect", is_flag=True, help="Print the bus's own introspection data.")
@click.option("--systemd-activation", is_flag=True, help="Accepted: we start services ourselves.")
@click.option("--nosyslog", is_flag=True, help="Accepted.")
@click.option("--syslog", is_flag=True, help="Accepted.")
@click.option("--syslog-only", is_flag=True, help="Accepted.")
def command(
    where: str | None,
    print_address: int | None,
    print_pid: int | None,
    *,
    fork: bool | None,
    nopidfile: bool,
    introspect: bool,
    **chosen: Any,
) -> None:
    """A message bus in dbus-daemon's place: dbus-activator, called by that name.

    \b
    Example:
      dbus-run-session --dbus-daemon=/usr/lib/dbus-activator/dbus-daemon -- make check
    """
    signals.open_standard_streams()
    options.log_to_stderr()
    environ = options.environment()
    if introspect:
        print(_introspection(environ), end="")
        return
    for fd in (print_address, print_pid):
        serve.check_open(fd, "print on")
    path = _config_file(chosen)
    found = options.bus_config(path, environ)
    passed = sd_daemon.passed_descriptor(environ)
    inherited = close_on_exec()
    with (
        kernel.shortage_is_fault(),
        closing(_listener(passed, where, found, environ)) as listener,
    ):
        background = None
        if found.fork if fork is None else fork:
            background = Background(set(inherited) - {print_address, print_pid, passed})
        signals.take_over(serve.SIGNALS)
        config = _config(listener, environ, path, found)
        if background:
            # A service that is activated before we close our own output would keep it open.
            config = dataclasses.replace(config, background=True, output=Output.NULL)
        with contextlib.ExitStack() as stack:
            if found.pidfile and not nopidfile:
                starter = {background.starter} if background else set()
                stack.enter_context(pidfile.held(found.pidfile, {os.getpid(), *starter}))
            kernel.check()
            ready = background.ready if background else lambda: None
            asyncio.run(serve.serve(config, print_address, print_pid, ready))


def _config_file(chosen: Mapping[str, Any]) -> str:
    """The configuration file."""
    names = [kind for kind in ("session", "system") if chosen[kind]]
    given = [chosen["config_file"]] if chosen["config_file"] is not None else []
    if len(names) + len(given) != 1:
        raise click.UsageError("one of --session, --system and --config-file is needed")
    if given:
        return str(given[0])
    paths = [f"{directory}/{names[0]}.conf" for directory in _DIRECTORIES]
    for path in paths:
        if os.path.exists(path):
            return path
    raise BadConfiguration(f"no configuration file: there is neither {' nor '.join(paths)}")


def _listener(
    passed: int | None, where: str | None, found: BusConfig, environ: Mapping[str, str]
) -> Listener:
    wanted = where if where is not None else "".join(text for _, text in found.listen[:1])
    if wanted == _PASSED:
        if passed is None:
            raise BadConfiguration(f"the address {_PASSED} needs a socket in LISTEN_FDS")
        return listen.from_descriptor(passed)
    if where is not None:
        return listen.from_option(where)
    return options.listener_of(found) or listen.private(environ)


def _config(listener: Listener, environ: Mapping[str, str], path: str, found: BusConfig) -> Config:
    chosen = {
        "directories": [],
        "standard_services": False,
        "config_file": path,
        "engine": "auto",
        "activation_timeout": None,
        "handover_timeout": Limits().handover_timeout,
        "stop_timeout": Limits().stop_timeout,
        "start_limit": (Limits().start_limit_burst, Limits().start_limit_interval),
        "output": Output.INHERIT,
    }
    return options.config(listener, environ, chosen, found)


# -- introspection -------------------------------------------------------------------------


def _introspection(environ: Mapping[str, str]) -> str:
    """The introspection data of a real bus, since the engines' answers differ."""
    signals.take_over(serve.SIGNALS)
    with closing(listen.private(environ)) as listener:
        return asyncio.run(_ask(Config(listener, (), environ=environ)))


async def _ask(config: Config) -> str:
    async with Daemon.open(config) as daemon:
        await daemon.start()
        bus = await Connection.to_bus(addresses.connect(daemon.bus_address))
        try:
            interface = "org.freedesktop.DBus.Introspectable"
            (text,) = await bus.call(DRIVER, DRIVER_PATH, interface, "Introspect")
            return str(text)
        finally:
            bus.close()
            await bus.wait_closed()
