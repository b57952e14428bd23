"""``monitor``: events as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import PROGRAM, TIMED_OUT, exits, output, print_error, query, words
from broker.client.client import is_back
from broker.client.events import Reader
from broker.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.bus.wire import Received
    from broker.client.client import Client

_COLOURS: Final = {"failed": "red", "active": "green", "exited": "dim"}


@click.command("monitor", short_help="Print events as they come.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=query.complete_names)
@query.timeout_option(f"Stop after this number of seconds, then exit with {TIMED_OUT}.")
@query.query_options
def command(
    names: tuple[str, ...], where: str | None, *, timeout: float | None, **options: Any
) -> None:
    """Print events, one a line, until Ctrl-C: states, processes, failures.

    \b
    Example:
      dbus-activator monitor --json=short org.example.Calculator
    """
    mode = query.json_mode(options)
    deadline = query.end_of_wait(timeout)
    try:
        with query.connect(where, None, timeout) as remote:
            remote.subscribe()
            (rows,) = remote.ask("ListServiceStates")
            for name in names:
                remote.ask("GetService", "s", name)  # says ServiceUnknown if it is
            reader = Reader(rows)
            if not options["quiet"]:
                print_error(f"{PROGRAM}: monitoring; Ctrl-C ends it")
            for signal in query.signals(remote, deadline):
                for event in _events(remote, reader, signal):
                    if not names or event["Service"] in names:
                        if mode != "off":
                            query.print_json(event, "short")
                        else:
                            print(_line(event))
    except KeyboardInterrupt:
        return


def _events(remote: Client, reader: Reader, signal: Received) -> Iterator[dict[str, Any]]:
    if not is_back(signal):
        return reader.events(signal)
    (rows,) = remote.ask("ListServiceStates")
    return reader.resume(rows)


def _line(event: dict[str, Any]) -> str:
    at = event["Time"]
    moment = f"{words.moment(at)}.{at // 1000 % 1000:03}"
    service = event["Service"] or "-"
    line = f"{moment}  {service}  {text(event)}"
    colour = _COLOURS.get(event.get("ActiveState", event["Event"]), "")
    return output.paint(output.clip(line, output.width()), colour)


def text(event: dict[str, Any]) -> str:
    """An event of a service in words."""
    match event["Event"]:
        case "started":
            origin = " (adopted)" if event["Origin"] == "adopted" else ""
            return f"started {event['PID']}{origin} {printable(event['Command'])}".rstrip()
        case "exited":
            how = exits.exit_words(event["Code"], event["Status"])
            return f"exited {event['PID']} ({how}) {printable(event['Command'])}"
        case "activation-failed":
            return f"activation failed: {printable(event['Message'])}"
        case "state":
            state = event.get("ActiveState")
            text = f"{state} ({event['SubState']})" if state else f"({event['SubState']})"
            result = event.get("Result", "success")
            return text if result == "success" else f"{text}, result {result}"
        case "environment":
            return "the activation environment has changed"
        case _:
            return f"descriptor {event['Event']}"
