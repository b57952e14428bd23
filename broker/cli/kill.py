"""``kill``: a signal to the processes of services."""

from __future__ import annotations

import signal
from typing import Any

import click

from broker.cli import query
from broker.core.digits import decimal


def _number(ctx: click.Context, param: click.Parameter, text: str) -> int:
    """A signal as kill(1) takes it: ``TERM``, ``SIGTERM`` or ``15``."""
    wanted = text.upper()
    if number := decimal(wanted, signal.SIGRTMAX):
        return number
    name = wanted if wanted.startswith("SIG") else f"SIG{wanted}"
    if name not in signal.Signals.__members__:
        raise click.BadParameter(f"there is no signal {text}", ctx, param)
    return int(signal.Signals[name])


def _complete_signals(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del ctx, param
    wanted = incomplete.upper()
    names = signal.Signals.__members__
    short = [each.removeprefix("SIG") for each in names]
    return [
        each for each in (names if wanted.startswith("SIG") else short) if each.startswith(wanted)
    ]


@click.command("kill", short_help="Send a signal to the processes of services.")
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=query.complete_names
)
@click.option(
    "-s",
    "--signal",
    "number",
    metavar="SIG",
    callback=_number,
    shell_complete=_complete_signals,
    default="TERM",
    show_default=True,
    help="By name or number.",
)
@click.option(
    "--whom",
    type=click.Choice(["main", "all"]),
    default="all",
    show_default=True,
    help="The main process or every one.",
)
@query.query_options
def command(
    names: tuple[str, ...], where: str | None, *, number: int, whom: str, **_options: Any
) -> None:
    """Send a signal to the processes of services.

    \b
    Example:
      dbus-activator kill -s HUP --whom=main org.example.Calculator
    """
    with query.connect(where) as remote:
        query.call_each(remote, "KillService", [("ssi", name, whom, number) for name in names])
