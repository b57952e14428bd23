"""``env``: the activation environment."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query
from broker.core.contract import MANAGER, ROOT
from broker.core.shell import assignment


@click.command("env", short_help="Show or change the activation environment.")
@click.argument("assignments", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--unset", "unset", metavar="NAME", multiple=True, help="Remove it. May be repeated.")
@query.query_options
def command(
    assignments: tuple[str, ...], where: str | None, *, unset: tuple[str, ...], **options: Any
) -> None:
    """Show or change the activation environment, the variables of started services.

    Both are for the broker's own user and root. Each variable is a line; its value is quoted
    if a shell needs that, as in $'two\\nlines'.

    \b
    Example:
      dbus-activator env LANG=C.UTF-8 --unset LC_ALL
    """
    with query.connect(where) as remote:
        if unset:
            remote.call("UnsetEnvironment", "as", list(unset))
        if assignments:
            remote.call("SetEnvironment", "as", list(assignments))
        if unset or assignments:
            return
        # Not with all properties: there it is empty for an unprivileged caller.
        environment = remote.get(ROOT, MANAGER, "Environment")
    mode = query.json_mode(options)
    if mode != "off":
        pairs = (each.partition("=") for each in environment)
        query.print_json({name: value for name, _, value in pairs}, mode)
        return
    for each in environment:
        name, _, value = each.partition("=")
        print(assignment(name, value))
