"""What every verb shares that asks a running broker."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker.bus import address

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_OPTIONS: Final = (
    click.option(
        "--address",
        "where",
        metavar="ADDRESS",
        help="Of the bus. Default: $DBUS_SESSION_BUS_ADDRESS, then $XDG_RUNTIME_DIR/bus.",
    ),
    click.option(
        "--json",
        "json_mode",
        type=click.Choice(["off", "short", "pretty"]),
        default="off",
        help="Print JSON, on one line or for people.",
    ),
    click.option(
        "-j", "json_auto", is_flag=True, help="JSON: pretty on a terminal, short in a pipe."
    ),
    click.option("--no-legend", is_flag=True, help="Print no headings."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but results."),
)


def query_options(function: F) -> F:
    """Add the shared options to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def bus_address(where: str | None) -> str:
    """The bus to ask.

    Raises:
        InvalidArgs: nothing says which.
    """
    return where if where is not None else address.default(os.environ)


def json_mode(options: dict[str, Any]) -> str:
    """off, short or pretty."""
    mode: str = options["json_mode"]
    if mode == "off" and options["json_auto"]:
        return "pretty" if sys.stdout.isatty() else "short"
    return mode


def print_json(value: Any, mode: str) -> None:
    """One JSON document."""
    if mode == "pretty":
        print(json.dumps(value, indent=2))
    else:
        print(json.dumps(value, separators=(",", ":")))
