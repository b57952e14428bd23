"""``list``: the services of a bus, a line each."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import listing, query


@click.command("list", short_help="List the services.")
@click.option("--activatable", is_flag=True, help="Only those that have a descriptor.")
@click.option("--running", is_flag=True, help="Only those that are active, or have processes.")
@click.option("--failed", is_flag=True, help="Only those that have failed.")
@query.query_options
def command(
    where: str | None, *, activatable: bool, running: bool, failed: bool, **options: Any
) -> None:
    """List the services of a bus: state, process, how many processes, last result.

    The process is the one that owns the name, whoever started it, else the main one.

    \b
    Example:
      dbus-activator list --failed
    """
    flags = {"--activatable": activatable, "--running": running, "--failed": failed}
    mode = query.json_mode(options)
    chosen = [flag for flag, given in flags.items() if given]
    services = listing.select(where, chosen, commands=mode != "off")
    if mode != "off":
        query.print_json(services, mode)
        return
    legend = not options["no_legend"]
    listing.write(services, legend=legend, footer=legend and not options["quiet"])
