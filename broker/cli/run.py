"""``run``: a command inside a bus of its own."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from broker import __version__
from broker.cli import PROGRAM, numbers, options, print_error
from broker.core.exits import CLD_EXITED
from broker.engine import listen
from broker.errors import BadConfiguration, Fault
from broker.process.kernel import shortage_is_fault
from broker.process.signals import open_standard_streams
from broker.process.spawn import SpawnRefusedError
from broker.session import report
from broker.session.command import Patience, SessionResult, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.services.leaks import Leak

log = logging.getLogger(__name__)

OWN_FAILURE: Final = 127
LEAKED: Final = 99


@click.command(
    "run",
    short_help="Run a command inside a bus of its own, and clean up after it.",
    context_settings={"allow_interspersed_args": False},
)
@options.bus_options
@click.option(
    "--fail-on-leak",
    is_flag=True,
    help=f"Exit with {LEAKED} if the command gave 0 but processes outlived it.",
)
@click.option(
    "--leak-grace",
    metavar="S",
    type=numbers.SECONDS,
    default=0.5,
    show_default=True,
    help="Seconds for processes to end by themselves after the command.",
)
@click.option(
    "--ignore-leak",
    "ignored",
    metavar="PATTERN",
    multiple=True,
    help="Ignore processes by the base name of their program, such as 'gvfsd*'. It is that "
    "of the executed file: for a script, its interpreter's, such as python3.11. "
    "May be repeated.",
)
@click.option(
    "--json-report",
    "json_report",
    metavar="FILE",
    type=click.File("w", lazy=False),
    help="Write a report of the session to FILE: services, processes, exits and leaks.",
)
@click.argument("argv", metavar="-- CMD [ARG]...", nargs=-1, required=True)
def command(
    argv: tuple[str, ...],
    *,
    fail_on_leak: bool,
    leak_grace: float,
    ignored: tuple[str, ...],
    json_report: TextIO | None,
    **chosen: Any,
) -> None:
    """Run a command inside a bus of its own, and clean up after it.

    The exit status is the command's own, 128+N if signal N ended it, 127 if the
    bus or the command could not be started. Signals are passed on to the command. If it
    survives SIGTERM, SIGINT, SIGQUIT or SIGHUP, the second one kills it.

    \b
    Example:
      dbus-activator run --services ./services.d -- pytest -q
      dbus-activator run --fail-on-leak --json-report session.json -- ./client
    """
    open_standard_streams()
    options.log_to_stderr()
    environ = options.environment()
    try:
        found = options.bus_config(chosen["config_file"], environ)
        with (
            shortage_is_fault(),
            closing(options.listener_of(found) or listen.private(environ)) as listener,
        ):
            asked = fail_on_leak or json_report is not None
            patience = Patience(leak_grace, ignored) if asked else Patience()
            ended = run(options.config(listener, environ, chosen, found), argv, patience)
        status = _status(ended, fail_on_leak=fail_on_leak)
        if json_report is not None:
            _write_report(json_report, argv, status, ended)
    except (Fault, SpawnRefusedError) as e:
        print_error(f"{PROGRAM}: {e}")
        sys.exit(OWN_FAILURE)
    except click.ClickException:
        raise
    except Exception:
        # Python's own status, 1, would look like the command's.
        log.exception("fault")
        sys.exit(OWN_FAILURE)
    if fail_on_leak and ended.leaks:
        _print_leaks(ended.leaks)
    sys.exit(status)


def _status(ended: SessionResult, *, fail_on_leak: bool) -> int:
    """Our exit status: the command's, unless that is 0 and there is a leak."""
    exit_ = ended.exit
    status = exit_.status if exit_.code == CLD_EXITED else 128 + exit_.status
    return LEAKED if not status and fail_on_leak and ended.leaks else status


def _write_report(file: TextIO, argv: Sequence[str], status: int, ended: SessionResult) -> None:
    """One JSON document.

    The file was emptied before the start of the bus: an unwritable file is refused in time,
    and an earlier session's report cannot be mistaken for this one's.
    """
    document = {
        "version": __version__,
        "command": list(argv),
        "status": status,
        "exit": report.of_exit(ended.exit),
        **ended.report,
        "leaks": [report.of_leak(leak) for leak in ended.leaks],
    }
    try:
        with file:
            json.dump(document, file, indent=2)
            file.write("\n")
    except OSError as e:
        raise BadConfiguration(f"--json-report: {file.name}: {e.strerror}") from e


def _print_leaks(leaks: Sequence[Leak]) -> None:
    many = f"{len(leaks)} process{'es' * (len(leaks) > 1)}"
    verb = "were" if len(leaks) > 1 else "was"
    print_error(f"{PROGRAM}: {many} outlived the command and {verb} killed")
    for leak in leaks:
        print_error(f"  {leak}")
