"""``list``: the services of a bus, a line each."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from broker.bus import address
from broker.cli import PATIENCE, output, query, words
from broker.client.client import Client
from broker.core.contract import SERVICE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_HEADINGS: Final = ("NAME", "STATE", "PID", "PROCS", "RESULT", "SINCE")
_RIGHT: Final = (2, 3)
# The members of ListServiceStates' structures; the names are the Service properties'.
_KEYS: Final = (
    "Name",
    "Object",
    "Activatable",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NProcesses",
    "StateChangeTimestamp",
)


@click.command("list", short_help="List the services.")
@click.option("--activatable", is_flag=True, help="Only those that have a descriptor.")
@click.option("--running", is_flag=True, help="Only those that are active, or have processes.")
@click.option("--failed", is_flag=True, help="Only those that have failed.")
@query.query_options
def command(
    where: str | None, *, activatable: bool, running: bool, failed: bool, **options: Any
) -> None:
    """List the services of a bus: state, process, number of processes, last result.

    The process is the owner of the name, however it was started, else the main process.

    \b
    Example:
      dbus-activator list --failed
    """
    flags = {"--activatable": activatable, "--running": running, "--failed": failed}
    mode = query.json_mode(options)
    chosen = [flag for flag, given in flags.items() if given]
    services = _select(where, chosen, commands=mode != "off")
    if mode != "off":
        query.print_json(services, mode)
        return
    legend = not options["no_legend"]
    _write(services, legend=legend, footer=legend and not options["quiet"])


def _select(
    where: str | None, flags: Collection[str], *, commands: bool = False
) -> list[dict[str, Any]]:
    """The services of the bus at an address: those that match any of the flags, or all.

    Args:
        commands: with the owners' command lines, too long for a table.

    Raises:
        DBusError: no broker answers.
    """
    bus = where if where is not None else address.default(os.environ)
    with Client.connect(bus, PATIENCE) as remote:
        (rows,) = remote.ask("ListServiceStates")
        services = [dict(zip(_KEYS, row, strict=True)) for row in rows]
        if flags:
            services = [each for each in services if any(_is(each, flag) for flag in flags)]
        _add_owners(remote, services, "OwnerPID", 0)
        if commands:
            _add_owners(remote, services, "OwnerCommand", [])
    return services


def _add_owners(remote: Client, services: Sequence[dict[str, Any]], name: str, none: Any) -> None:
    """Add a property of the owners; ``none`` if there is no owner, or it is withheld from us."""
    active = [each for each in services if each["ActiveState"] == "active"]
    found = remote.get_each([each["Object"] for each in active], SERVICE, name)
    for each in services:
        each[name] = none
    for each, value in zip(active, found, strict=True):
        each[name] = value or none


def _write(services: Sequence[dict[str, Any]], *, legend: bool, footer: bool) -> None:
    """Print a table; the footer is for terminals."""
    lines = output.table(
        _HEADINGS,
        [_row(each) for each in services],
        legend=legend,
        right=_RIGHT,
        colours=[output.STATE_COLOURS[each["ActiveState"]] for each in services],
    )
    # In one piece, even with PYTHONUNBUFFERED.
    sys.stdout.write("".join([f"{line}\n" for line in lines]))
    if footer and output.width() is not None:
        print(f"\n{len(services)} service{'s' * (len(services) != 1)} listed.")


def _is(service: dict[str, Any], flag: str) -> bool:
    if flag == "--activatable":
        return bool(service["Activatable"])
    if flag == "--failed":
        return bool(service["ActiveState"] == "failed")
    return bool(service["ActiveState"] not in ("inactive", "failed") or service["NProcesses"])


def _row(service: dict[str, Any]) -> tuple[str, ...]:
    result = service["Result"]
    return (
        service["Name"],
        service["ActiveState"],
        str(service["OwnerPID"] or service["MainPID"] or "-"),
        str(service["NProcesses"] or "-"),
        "-" if result == "success" else result,
        words.ago(service["StateChangeTimestamp"]),
    )
