"""``verify``: checks descriptors."""

from __future__ import annotations

import os
import sys

import click

from broker.catalog.verify import verify
from broker.cli import output
from broker.core.printable import printable
from broker.errors import BadConfiguration


@click.command("verify", short_help="Check descriptors.")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Only the exit status.")
def command(paths: tuple[str, ...], *, quiet: bool) -> None:
    """Check descriptors, for errors that a bus refuses, and for likely mistakes.

    Each finding is a line FILE:LINE: MESSAGE on standard output. The exit status is 1 if there
    is any. The first of several directories has precedence, as with --services.

    \b
    Example:
      dbus-activator verify ./services.d /usr/share/dbus-1/services
    """
    for path in paths:
        if not os.path.lexists(path):
            raise BadConfiguration(f"{printable(path)}: no such file or directory")
    count = 0
    for finding in verify(paths):
        count += 1
        if not quiet:
            print(output.paint(output.clip(str(finding), None), "red" if finding.fatal else ""))
    sys.exit(1 if count else 0)
