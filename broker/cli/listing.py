"""The services of a bus, a line each: what ``list`` shows, without the command line."""

from __future__ import annotations

import os
import sys

from broker.bus import address
from broker.cli import PATIENCE, output, words
from broker.client.client import Remote
from broker.core.contract import SERVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any, Final

HEADINGS: Final = ("NAME", "STATE", "PID", "PROCS", "RESULT", "SINCE")
_RIGHT: Final = (2, 3)
# The members of ListServiceStates' structures; the names are the Service properties'.
KEYS: Final = (
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
FLAGS: Final = frozenset({"--activatable", "--running", "--failed"})
_QUIET: Final = frozenset({"--no-legend", "-q", "--quiet"})


def is_plain(arguments: Sequence[str]) -> bool:
    """Whether ``show`` can do what the command line says, as it is mostly typed."""
    return arguments[:1] == ["list"] and set(arguments[1:]) <= FLAGS | _QUIET


def show(*, prog_name: str) -> None:
    """Do it, as click's command would: ``prog_name`` would be for its messages."""
    del prog_name
    arguments = sys.argv[2:]
    services = select(None, [each for each in arguments if each in FLAGS])
    legend = "--no-legend" not in arguments
    write(services, legend=legend, footer=legend and not _QUIET.intersection(arguments))


def select(
    where: str | None, flags: Collection[str], *, commands: bool = False
) -> list[dict[str, Any]]:
    """The services that any of the flags is for, or all; of the bus at an address.

    Args:
        commands: with the owners' command lines, which no table has room for.

    Raises:
        Outcome: there is none to ask.
    """
    bus = where if where is not None else address.default(os.environ)
    with Remote.connect(bus, PATIENCE) as remote:
        (rows,) = remote.ask("ListServiceStates")
        services = [dict(zip(KEYS, row, strict=True)) for row in rows]
        if flags:
            services = [each for each in services if any(_is(each, flag) for flag in flags)]
        _add_owners(remote, services, "OwnerPID", 0)
        if commands:
            _add_owners(remote, services, "OwnerCommand", [])
    return services


def _add_owners(remote: Remote, services: Sequence[dict[str, Any]], name: str, none: Any) -> None:
    """A property of their owners; of who is not told of it, it is as of nobody."""
    active = [each for each in services if each["ActiveState"] == "active"]
    found = remote.get_each([each["Object"] for each in active], SERVICE, name)
    for each in services:
        each[name] = none
    for each, value in zip(active, found, strict=True):
        each[name] = value or none


def write(services: Sequence[dict[str, Any]], *, legend: bool, footer: bool) -> None:
    """Print them; the footer is for people, on a terminal."""
    lines = output.table(
        HEADINGS,
        [_row(each) for each in services],
        legend=legend,
        right=_RIGHT,
        colours=[output.STATE_COLOURS[each["ActiveState"]] for each in services],
    )
    # In one piece, whatever is thought of buffers outside (PYTHONUNBUFFERED).
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
