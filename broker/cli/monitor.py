"""``monitor``: events as they come."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from broker.cli import exits, output, query, words
from broker.core.printable import printable
from broker.news import Reader

_COLOURS: Final = {"failed": "red", "active": "green", "exited": "dim"}


@click.command("monitor", short_help="Print events as they come.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=query.complete_names)
@query.query_options
def command(names: tuple[str, ...], where: str | None, **options: Any) -> None:
    """Print what happens, a line each, until Ctrl-C: states, processes, failures.

    \b
    Example:
      dbus-activator monitor --json=short org.example.Calculator
    """
    mode = query.json_mode(options)
    try:
        with query.connect(where) as remote:
            remote.subscribe()
            (services,) = remote.call("ListServices")
            for name in names:
                remote.call("GetService", "s", name)  # says ServiceUnknown if it is
            reader = Reader({path: name for name, path, _, _ in services})
            if not options["quiet"]:
                print("dbus-activator: monitoring; Ctrl-C ends it", file=sys.stderr)
            for signal in query.signals(remote):
                for event in reader.events(signal):
                    if not names or event["Service"] in names:
                        if mode != "off":
                            query.print_json(event, "short")
                        else:
                            print(_line(event))
    except KeyboardInterrupt:
        return


def _line(event: dict[str, Any]) -> str:
    at = event["Time"]
    moment = f"{words.moment(at)}.{at // 1000 % 1000:03}"
    service = event["Service"] or "-"
    line = f"{moment}  {service}  {text(event)}"
    colour = _COLOURS.get(event.get("ActiveState", event["Event"]), "")
    return output.paint(output.clip(line, output.width()), colour)


def text(event: dict[str, Any]) -> str:
    """What happened to a service, in words."""
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
