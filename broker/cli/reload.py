"""``reload``: read the descriptors again."""

from __future__ import annotations

from typing import Any

import click

from broker.cli import query


@click.command("reload", short_help="Read the descriptors again.")
@query.query_options
def command(where: str | None, **_options: Any) -> None:
    """Read the descriptors again; when this returns, the bus knows what is new.

    Mostly it does without: what changes in the directories is seen. Some file systems do
    not tell, such as a network's.

    \b
    Example:
      dbus-activator reload
    """
    with query.connect(where) as remote:
        remote.call("Reload")
