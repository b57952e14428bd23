"""``show``: the properties of a service, for scripts."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query
from broker.core.printable import printable
from broker.errors import InvalidArgs


@click.command("show", short_help="Show a service's properties.")
@click.argument("name", shell_complete=query.complete_names)
@click.option(
    "-p",
    "--property",
    "properties",
    metavar="PROP[,PROP…]",
    multiple=True,
    help="Only these, in this order. May be repeated.",
)
@click.option("--value", is_flag=True, help="Print values without names.")
@query.query_options
def command(
    name: str, where: str | None, *, properties: tuple[str, ...], value: bool, **options: Any
) -> None:
    """Show a service's properties as Key=Value lines.

    Times are microseconds, lists are separated by blanks; the names are those of
    the D-Bus interface org.activation.Broker1.Service.

    \b
    Example:
      dbus-activator show org.example.Flaky -p ExecMainCode,ExecMainStatus
    """
    with query.connect(where) as remote:
        found = remote.service(name)
    wanted = [each for text in properties for each in text.split(",") if each] or list(found)
    for each in wanted:
        if each not in found:
            raise InvalidArgs(f"a service has no property {each}; it has {', '.join(found)}")
    mode = query.json_mode(options)
    if mode != "off":
        query.print_json({each: found[each] for each in wanted}, mode)
        return
    for each in wanted:
        text = _text(found[each])
        print(text if value else f"{printable(each)}={text}")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return printable(str(value))
