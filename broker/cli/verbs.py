"""The verbs, each in a file of its own, behind one command."""

from __future__ import annotations

import importlib
from typing import Final

import click

from broker import __version__
from broker.cli import PROGRAM

# Verb to its one line of help. A verb's file is imported when it is used.
_VERBS: Final = {
    "run": "Run a command inside a bus of its own, and clean up after it.",
    "serve": "Run a bus until SIGTERM or SIGINT.",
    "list": "List the services.",
    "status": "Show the state of services, their processes and last output.",
    "show": "Show a service's properties.",
    "ps": "Show every tracked process as a tree.",
    "start": "Activate services, and wait for their names.",
    "stop": "End every process of services.",
    "kill": "Send a signal to the processes of services.",
    "reset-failed": "Forget failures and start limits.",
    "wait": "Wait for a service's name, or for its end.",
    "monitor": "Print events as they come.",
    "logs": "Print captured output of a service.",
    "analyze": "Activation times, a timeline, a graph of processes.",
    "verify": "Check descriptors.",
    "reload": "Read the descriptors again.",
    "env": "Show or change the activation environment.",
    "completion": "Print the completion script of a shell.",
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
        module = cmd_name.replace("-", "_")
        command = importlib.import_module(f"broker.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([*_VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name=PROGRAM)
def cli() -> None:
    """A D-Bus activation broker: the parent of every service on a message bus."""
