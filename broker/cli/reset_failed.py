"""``reset-failed``: forget failures and start limits."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query


@click.command("reset-failed", short_help="Forget failures and start limits.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=query.complete_names)
@query.query_options
def command(names: tuple[str, ...], where: str | None, **_options: Any) -> None:
    """Forget the failures and start limits of services, or of all of them.

    \b
    Example:
      dbus-activator reset-failed org.example.Flaky
    """
    with query.connect(where) as remote:
        query.call_each(remote, "ResetFailed", [("s", name) for name in names or [""]])
