"""``ps``: every tracked process as a tree."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query, tree


@click.command("ps", short_help="Show every tracked process as a tree.")
@click.argument("name", required=False, shell_complete=query.complete_names)
@click.option("--exited", is_flag=True, help="Show the ones that have ended, too.")
@query.query_options
def command(name: str | None, where: str | None, *, exited: bool, **options: Any) -> None:
    """Show every tracked process as a tree, of one service or of all.

    STARTED counts from the start of the bus. An adopted process is an orphan
    that the broker took in.

    \b
    Example:
      dbus-activator ps --exited org.example.Calculator
    """
    with query.connect(where) as remote:
        if name is not None:
            remote.ask("GetService", "s", name)  # says ServiceUnknown if it is
        snapshot = remote.snapshot()
    query.note_processes(snapshot)
    mode = query.json_mode(options)
    if mode != "off":
        records = [
            each
            for each in snapshot.processes.values()
            if (name is None or each["ServiceName"] == name)
            and (exited or each["State"] == "running")
        ]
        query.print_json(records, mode)
        return
    since = min(
        (each["StartTimestampMonotonic"] for each in snapshot.processes.values()), default=0
    )
    roots = tree.rows(snapshot, service=name, exited=exited)
    for line in tree.lines(roots, since, legend=not options["no_legend"]):
        print(line)
