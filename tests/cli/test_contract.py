"""What the command line promises: its verbs and options, and help that is quick and fits."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from broker.cli.dbus_daemon import command as dbus_daemon
from broker.cli.verbs import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKING = {"--address", "--json", "-j", "--no-legend", "-q", "--quiet"}
BUS = {
    "--services",
    "--standard-services",
    "--engine",
    "--activation-timeout",
    "--stop-timeout",
    "--output",
    "--config-file",
}
# Verbs with the options that people and scripts rely on; there may be more.
VERBS = {
    "run": BUS | {"--fail-on-leak", "--leak-grace", "--ignore-leak"},
    "serve": BUS | {"--address", "--print-address", "--print-pid"},
    "list": ASKING | {"--activatable", "--running", "--failed"},
    "status": ASKING,
    "show": ASKING | {"-p", "--value"},
    "ps": ASKING | {"--exited"},
    "start": ASKING | {"--timeout"},
    "stop": ASKING,
    "kill": ASKING | {"-s", "--whom"},
    "reset-failed": ASKING,
    "wait": ASKING | {"--for", "--timeout"},
    "monitor": ASKING,
    "logs": ASKING | {"-f", "-n"},
    "analyze": set(),
    "analyze blame": ASKING,
    "analyze plot": ASKING,
    "analyze dot": ASKING,
    "verify": set(),
    "reload": ASKING,
    "env": ASKING | {"--unset"},
    "completion": set(),
    "demo": set(),
}
DBUS_DAEMON = {
    "--session",
    "--system",
    "--config-file",
    "--address",
    "--print-address",
    "--print-pid",
    "--fork",
    "--nofork",
    "--nopidfile",
    "--nosyslog",
    "--syslog",
    "--syslog-only",
    "--introspect",
    "--version",
}
HEAVY = {"asyncio", "dbus_next", "xml", "subprocess", "multiprocessing", "ctypes", "json"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb, and every verb of a verb."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner, each in command.commands.items():
                yield f"{name} {inner}", each


def options(command: click.Command) -> set[str]:
    return {
        name
        for each in command.params
        if isinstance(each, click.Option)
        for name in [*each.opts, *each.secondary_opts]
    }


def test_every_verb_has_its_options() -> None:
    found = dict(commands())
    assert found.keys() == VERBS.keys()
    missing = {name: VERBS[name] - options(command) for name, command in found.items()}
    assert {name: each for name, each in missing.items() if each} == {}
    assert options(dbus_daemon) >= DBUS_DAEMON


def test_the_list_of_verbs_says_what_their_own_help_says() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = importlib.import_module(f"broker.cli.{name.replace('-', '_')}").command
        assert command.name == name


@pytest.mark.parametrize("verb", [[], *(name.split() for name in VERBS)], ids=" ".join)
def test_help_fits_has_an_example_and_imports_little(verb: list[str]) -> None:
    done, imported = run(*verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    if verb and verb != ["analyze"]:
        assert any(line.strip().startswith("Example") for line in lines)
        assert any(line.startswith(f"    dbus-activator {' '.join(verb)}") for line in lines)
    if verb not in (["run"], ["serve"], ["demo"]):  # their options are read from the daemon's own
        assert imported & HEAVY <= {"socket"}
    if not verb or verb == ["list"]:
        assert imported & (HEAVY - {"socket"}) == set()


def test_list_imports_no_event_loop() -> None:
    done, imported = run("list", "--address=unix:path=/nonexistent")
    assert done.returncode == 1
    assert imported & {"asyncio", "dbus_next", "xml", "ctypes"} == set()


def test_a_bus_carries_nothing_heavy_with_it_that_it_does_not_need() -> None:
    """Megabytes of the broker's, as long as it runs: TLS, GLib, and what urllib brings."""
    done, imported = run("serve", "--services=/nonexistent")
    assert "no such directory" in done.stderr
    assert {"asyncio", "dbus_next"} <= imported
    assert not {"ssl", "gi", "http", "email"} & imported


def run(*argv: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run the command; returns what it imported, beyond what Python starts with."""
    read, write = os.pipe()
    script = (
        "import atexit, os, sys; before = set(sys.modules);"
        "imported = lambda: {name for name, module in sys.modules.items() if module};"
        "tell = lambda: ' '.join(imported() - before).encode();"
        "atexit.register(lambda: os.write({0}, tell()));"
        "sys.argv[0] = 'dbus-activator'; from broker.cli import main; main()"
    ).replace("{0}", str(write))
    with os.fdopen(read) as told:
        done = subprocess.run(
            [sys.executable, "-c", script, *argv],
            check=False,
            capture_output=True,
            text=True,
            pass_fds=[write],
            env=os.environ | {"COLUMNS": "200"},
        )
        os.close(write)
        return done, {name.partition(".")[0] for name in told.read().split()}
