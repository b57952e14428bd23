"""``start``: activate services and wait for their names."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from broker.cli import query
from broker.errors import NoReply, RemoteError


@click.command("start", short_help="Activate services, and wait for their names.")
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=query.complete_names
)
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0),
    help="Wait at most so many seconds. Default: until the broker gives up.",
)
@query.query_options
def command(
    names: tuple[str, ...], where: str | None, *, timeout: float | None, **options: Any
) -> None:
    """Activate services, all at once, and wait until each name is owned or has failed.

    The exit status is 0 if all are running, and 1 otherwise, with the reasons.

    \b
    Example:
      dbus-activator start org.example.Calculator
    """
    failed = {}
    with query.connect(where) as remote:
        deadline = None if timeout is None else time.monotonic() + timeout
        serials = {name: remote.send("StartService", "s", name) for name in names}
        for name, serial in serials.items():
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                remote.reply(serial, left)
            except RemoteError as e:
                failed[name] = str(e)
            except NoReply:
                failed[name] = f"has not taken its name within {timeout:g} s"
    mode = query.json_mode(options)
    if mode != "off":
        found = [
            {"Name": name, "Started": name not in failed, "Message": failed.get(name, "")}
            for name in names
        ]
        query.print_json(found, mode)
    else:
        for name, reason in failed.items():
            text = reason if name in reason else f"{name}: {reason}"
            print(f"dbus-activator: {text}", file=sys.stderr)
    if failed:
        sys.exit(1)
