"""``run``: a command inside a bus of its own."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import PROGRAM, complain, options
from broker.core.exits import CLD_EXITED
from broker.engine import listen
from broker.errors import Fault
from broker.process.kernel import shortage_is_fault
from broker.process.signals import open_standard_streams
from broker.process.spawn import SpawnRefusedError
from broker.session import Ended, Leak, run

if TYPE_CHECKING:
    from collections.abc import Sequence

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
@click.argument("argv", metavar="-- CMD [ARG]...", nargs=-1, required=True)
def command(argv: tuple[str, ...], *, fail_on_leak: bool, **chosen: Any) -> None:
    """Run a command inside a bus of its own, and clean up after it.

    The exit status is the command's own, 128+N if signal N ended it, 127 if the
    bus or the command could not be started.

    \b
    Example:
      dbus-activator run --services ./services.d -- pytest -q
    """
    open_standard_streams()
    options.log_to_stderr()
    environ = options.environment()
    try:
        with shortage_is_fault(), closing(listen.private(environ)) as listener:
            ended = run(options.config(listener, environ, chosen), argv)
    except (Fault, SpawnRefusedError) as e:
        complain(f"{PROGRAM}: {e}")
        sys.exit(OWN_FAILURE)
    sys.exit(_report(ended, fail_on_leak=fail_on_leak))


def _report(ended: Ended, *, fail_on_leak: bool) -> int:
    exit_ = ended.exit
    status = exit_.status if exit_.code == CLD_EXITED else 128 + exit_.status
    if fail_on_leak and ended.leaks:
        _print_leaks(ended.leaks)
        return status or LEAKED
    return status


def _print_leaks(leaks: Sequence[Leak]) -> None:
    many = f"{len(leaks)} process{'es' * (len(leaks) > 1)}"
    verb = "were" if len(leaks) > 1 else "was"
    complain(f"{PROGRAM}: {many} outlived the command and {verb} killed")
    for leak in leaks:
        adopted = " (adopted)" if leak.adopted else ""
        complain(
            f"  {leak.service or '-'}  pid {leak.pid}{adopted}  {' '.join(leak.command)}"
            f"   age {leak.age:.1f}s"
        )
