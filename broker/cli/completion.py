"""``completion``: the script for a shell's completion of our command line."""

from __future__ import annotations

from typing import Final

import click

from broker.cli import COMPLETION

_SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes verbs, options and the names of live services.

    \b
    Example, for ~/.bashrc, ~/.zshrc and ~/.config/fish/config.fish:
      eval "$(dbus-activator completion bash)"
      eval "$(dbus-activator completion zsh)"
      dbus-activator completion fish | source
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - for this alone

    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    print(kind(root.command, {}, "dbus-activator", COMPLETION).source())
