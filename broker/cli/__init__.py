"""The command line, ``dbus-activator``: verbs, each in a file of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Final

import click

from broker import __version__
from broker.errors import Fault, Outcome

PROGRAM: Final = "dbus-activator"

# Verb to its one line of help. A verb's file is imported when it is used.
_VERBS: Final = {
    "run": "Run a command inside a bus of its own, and clean up after it.",
    "serve": "Run a bus until SIGTERM or SIGINT.",
    "ps": "Show every tracked process as a tree.",
    "demo": "A tour: services activated, daemonized, tracked and crashed.",
}


class _Verbs(click.Group):
    """The verbs; help lists them without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _VERBS:
            return None
        command = importlib.import_module(f"broker.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name=PROGRAM)
def cli() -> None:
    """A D-Bus activation broker: the parent of every service on a message bus."""


def complain(text: str) -> None:
    """A line on standard error, which may be full or closed: then nobody can be told.

    Not by print: what it could not write stays in Python's buffer, is tried again at
    the end, and makes the exit status 120.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))


def main() -> None:
    """Run the command; expected failures become one line on stderr."""
    try:
        cli(prog_name=PROGRAM)
    except Fault as e:
        complain(f"{PROGRAM}: {e}")
        sys.exit(e.exit_status)
    except Outcome as e:
        complain(f"{PROGRAM}: {e}")
        sys.exit(1)
