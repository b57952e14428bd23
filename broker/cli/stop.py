"""``stop``: end every process of services."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query


@click.command("stop", short_help="End every process of services.")
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=query.complete_names
)
@query.query_options
def command(names: tuple[str, ...], where: str | None, **_options: Any) -> None:
    """End every process of services, all at once, and return when none is left.

    Each gets SIGTERM, and SIGKILL after the broker's stop timeout.

    \b
    Example:
      dbus-activator stop org.example.Calculator
    """
    with query.connect(where) as remote:
        query.call_each(remote, "StopService", [("s", name) for name in names])
