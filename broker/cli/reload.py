"""``reload``: read the descriptors again."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query


@click.command("reload", short_help="Read the descriptors again.")
@query.query_options
def command(where: str | None, **_options: Any) -> None:
    """Read the descriptors again; when this returns, the bus knows the changes.

    It is seldom needed: the broker watches the directories. But some file systems do not
    report changes, such as network file systems.

    \b
    Example:
      dbus-activator reload
    """
    with query.connect(where) as remote:
        remote.call("Reload")
