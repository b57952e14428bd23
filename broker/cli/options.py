"""The common options of ``run`` and ``serve``, and the Config from them."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker.catalog import busconfig
from broker.catalog.busconfig import BusConfig
from broker.catalog.catalog import Directory, standard_directories
from broker.cli import PROGRAM, numbers, print_error
from broker.engine import listen
from broker.engine.base import Rules
from broker.engine.choose import CHOICES
from broker.errors import BadConfiguration
from broker.process import local, procfs
from broker.services.limits import Limits, Output
from broker.session.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.engine.listen import Listener

log = logging.getLogger(__name__)

F = TypeVar("F", bound="Callable[..., Any]")

_OPTIONS: Final = (
    click.option(
        "--services",
        "directories",
        metavar="DIR",
        multiple=True,
        help="Take descriptors from DIR; replaces the standard directories. May be repeated.",
    ),
    click.option(
        "--standard-services",
        is_flag=True,
        help="Take descriptors from the session's standard directories too, after --services.",
    ),
    click.option(
        "--engine",
        type=click.Choice(CHOICES),
        default="auto",
        show_default=True,
        help="The message bus underneath.",
    ),
    click.option(
        "--activation-timeout",
        metavar="S",
        type=numbers.SOME_SECONDS,
        help="Seconds for a service to take its name. Default: "
        f"{Limits().activation_timeout:g}, or the configuration file's service_start_timeout.",
    ),
    click.option(
        "--handover-timeout",
        metavar="S",
        type=numbers.SECONDS,
        default=Limits().handover_timeout,
        show_default=True,
        help="Seconds for another process to take a name when all processes of its service have "
        "exited with 0; 0: fail at once.",
    ),
    click.option(
        "--stop-timeout",
        metavar="S",
        type=numbers.SECONDS,
        default=Limits().stop_timeout,
        show_default=True,
        help="Seconds from SIGTERM to SIGKILL.",
    ),
    click.option(
        "--start-limit",
        metavar="BURST/SECONDS",
        callback=numbers.start_limit,
        default=f"{Limits().start_limit_burst}/{Limits().start_limit_interval:g}",
        show_default=True,
        help="A service whose activation has failed BURST times within SECONDS is not started "
        "for a while; 0: there is no limit.",
    ),
    click.option(
        "--output",
        type=click.Choice([each.value for each in Output]),
        default=Output.INHERIT.value,
        show_default=True,
        help="Destination of services' output: our own output; a log in memory, with its last "
        "lines in the reports of failed activations; or none.",
    ),
    click.option(
        "--config-file",
        metavar="FILE",
        help="A configuration file of dbus-daemon's: address, directories of descriptors, "
        "activation timeout, and policy. Other options take precedence.",
    ),
)


def bus_options(function: F) -> F:
    """Add the shared options to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def bus_config(path: str | None, environ: Mapping[str, str]) -> BusConfig:
    """The configuration of ``--config-file``; empty without that option.

    Raises:
        BadConfiguration: the file cannot be read.
    """
    if path is None:
        return BusConfig()
    found = busconfig.load(path, environ)
    for problem in found.problems:
        log.warning("%s", problem)
    return found


def listener_of(found: BusConfig) -> Listener | None:
    """The listener of a configuration file; None without ``<listen>``.

    Raises:
        BadConfiguration, PermissionRefused: the address cannot be used.
    """
    for where, _ in found.listen[1:]:
        log.warning("%s: not used: only the first <listen> is", where)
    for where, text in found.listen[:1]:
        return listen.from_option(text, where)
    return None


def config(
    listener: Listener,
    environ: Mapping[str, str],
    options: dict[str, Any],
    found: BusConfig | None = None,
) -> Config:
    """The Config from the common options.

    Args:
        found: the configuration of ``--config-file``.

    Raises:
        BadConfiguration: a directory of ``--services`` does not exist.
    """
    own = [os.path.abspath(each) for each in options["directories"]]
    for each in own:
        # A directory that may not answer has its timeout when the descriptors are read.
        if local.holds(each) and not os.path.isdir(each):
            raise BadConfiguration(f"--services: {each}: no such directory")
    burst, interval = options["start_limit"]
    local.end()  # frees descriptors for the loop, which comes next and fails worse without
    found = found or BusConfig()
    directories = [Directory(each, strict=False) for each in own] or list(found.directories)
    if options["standard_services"] or not (directories or options.get("config_file")):
        directories += standard_directories(environ)
    return Config(
        listener=listener,
        directories=directories,
        engine=options["engine"],
        limits=Limits(
            activation_timeout=options["activation_timeout"] or _start_timeout(found),
            handover_timeout=options["handover_timeout"],
            stop_timeout=options["stop_timeout"],
            start_limit_burst=burst,
            start_limit_interval=interval,
        ),
        environ=environ,
        output=Output(options["output"]),
        rules=Rules(
            kind=found.kind or "session",
            policy=found.policy,
            restricts=found.restricts,
            limits=found.limits,
        ),
    )


def _start_timeout(found: BusConfig) -> float:
    milliseconds = found.limits.get("service_start_timeout")
    return Limits().activation_timeout if milliseconds is None else milliseconds / 1000


def environment() -> dict[str, str]:
    """Our environment, with our own directory at the end of PATH.

    So descriptors and commands find programs installed beside us, also in a virtual
    environment that was not activated. At the end, it shadows no other program.
    """
    environ = dict(os.environ)
    started_with = procfs.read("/proc/self/environ") or b""
    if b"LC_CTYPE=" not in started_with:
        # Set by Python itself in the C locale (PEP 538).
        environ.pop("LC_CTYPE", None)
    # Not a link's directory: the link may be there to shadow another program.
    program = os.path.realpath(sys.argv[0])
    if os.path.basename(program) == "__main__.py":
        program = sys.executable  # ``python -m broker``: programs are installed beside that
    directory = os.path.dirname(program)
    path = environ.get("PATH", os.defpath)
    if directory not in path.split(os.pathsep):
        environ["PATH"] = f"{path}{os.pathsep}{directory}"
    return environ


def log_to_stderr() -> None:
    """Log to standard error, one line a message, with the program's name in front."""
    logging.basicConfig(
        format=f"{PROGRAM}: %(message)s", level=logging.WARNING, handlers=[_StderrHandler()]
    )


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, if possible."""
        print_error(self.format(record))
