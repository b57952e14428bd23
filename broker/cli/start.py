"""``start``: activate services and wait for their names."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from broker.cli import TIMED_OUT, print_error_line, query
from broker.errors import NoReply, RemoteError


@click.command("start", short_help="Activate services, and wait for their names.")
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=query.complete_names
)
@query.timeout_option(
    f"Maximum wait in seconds, then exit with {TIMED_OUT}. Default: until the broker gives up."
)
@query.query_options
def command(
    names: tuple[str, ...], where: str | None, *, timeout: float | None, **options: Any
) -> None:
    """Activate services, all at once, and wait until each name is owned or has failed.

    The exit status is 0 if all are running, and 1 if one has failed, with the reasons.

    \b
    Example:
      dbus-activator start org.example.Calculator
    """
    failed = {}
    late = set()
    deadline = query.end_of_wait(timeout)
    with query.connect(where, timeout=timeout) as remote:
        serials = {name: remote.send("StartService", "s", name) for name in names}
        for name, serial in serials.items():
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                remote.reply(serial, left)
            except RemoteError as e:
                failed[name] = str(e)
            except NoReply:
                if deadline is None or time.monotonic() < deadline:
                    raise
                failed[name] = f"has not taken its name within {timeout:g} s"
                late.add(name)
    mode = query.json_mode(options)
    if mode != "off":
        found = [
            {"Name": name, "Started": name not in failed, "Message": failed.get(name, "")}
            for name in names
        ]
        query.print_json(found, mode)
    else:
        for name, reason in failed.items():
            print_error_line(reason if name in reason else f"{name}: {reason}")
    if failed:
        sys.exit(TIMED_OUT if late == failed.keys() else 1)
