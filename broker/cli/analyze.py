"""``analyze``: the duration of activations, as a list, a timeline or a graph."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from broker.cli import output, query, tree, words
from broker.client.snapshot import activations
from broker.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.client.snapshot import Snapshot


@click.group("analyze", short_help="Activation times, a timeline, a graph of processes.")
def command() -> None:
    """The duration of activations, as a list, a timeline or a graph."""


@command.command("blame", short_help="The activations by their duration.")
@query.query_options
def blame(where: str | None, **options: Any) -> None:
    """The activations by their duration, the slowest first.

    A service with several activations has a line for each, up to the newest 16.
    A name taken by a process without an activation took no time, and is not listed.

    \b
    Example:
      dbus-activator analyze blame
    """
    snapshot = _snapshot(where)
    found = sorted(_taken(snapshot), key=lambda each: -each["USec"])
    mode = query.json_mode(options)
    if mode != "off":
        query.print_json(found, mode)
        return
    columns = output.width()
    times = Counter(each["Name"] for each in found)
    for each in found:
        which = f"  #{each['Activation']}" if times[each["Name"]] > 1 else ""
        how = "" if each["Result"] == "success" else f"  failed ({each['Result']})"
        colour = "red" if how else ""
        line = output.clip(f"{words.span(each['USec']):>10} {each['Name']}{which}{how}", columns)
        print(output.paint(line, colour))


def _taken(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for service in snapshot.services.values():
        for each in activations(service):
            about = {"Name": service["Name"], "Activation": each.number}
            if each.owned:
                yield about | {"USec": each.owned - each.requested, "Result": "success"}
            elif each.result != "success":  # else it is under way, or was stopped
                yield about | {"USec": each.ended - each.requested, "Result": each.result}


@command.command("plot", short_help="A timeline of services and processes, as SVG.")
@query.query_options
def plot(where: str | None, **_options: Any) -> None:
    """A timeline of services and their processes, as an SVG picture on standard output.

    \b
    Example:
      dbus-activator analyze plot > session.svg
    """
    from broker.cli.plot import svg  # noqa: PLC0415 - for this alone

    with query.connect(where) as remote:
        snapshot = remote.snapshot()
        about = remote.manager()
    for line in svg(snapshot, f"dbus-activator {about['Version']} on {about['Engine']}"):
        print(line)


@command.command("dot", short_help="A graph of parents and children, for Graphviz.")
@query.query_options
def dot(where: str | None, **_options: Any) -> None:
    """A graph of parents and children, for Graphviz, on standard output.

    An orphan's edge is dashed: it leads to its service, since its parent has ended.

    \b
    Example:
      dbus-activator analyze dot | dot -Tsvg > processes.svg
    """
    for line in _graph(_snapshot(where)):
        print(line)


def _snapshot(where: str | None) -> Snapshot:
    with query.connect(where) as remote:
        return remote.snapshot()


def _graph(snapshot: Snapshot) -> Iterator[str]:
    yield "digraph processes {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, fontname="sans-serif", fontsize=10];'
    yield '  broker [label="dbus-activator", shape=ellipse];'
    named = {name: f"s{number}" for number, name in enumerate(_names(snapshot))}
    for name, node in named.items():
        yield f"  {node} [label={_quoted(name)}, shape=ellipse];"
        yield f"  broker -> {node};"
    for root in tree.rows(snapshot, service=None, exited=True):
        service = named.get(root.service, "broker")
        yield from _edges(root, service)
    yield "}"


def _names(snapshot: Snapshot) -> list[str]:
    """The services that have, or had, processes."""
    return sorted({each["ServiceName"] for each in snapshot.processes.values()} - {""})


def _edges(root: tree.Row, service: str) -> Iterator[str]:
    parents = [(root, service)]
    for row, parent in parents:
        # PIDs are reused; the start of a record distinguishes them.
        node = f"p{row.pid}_{row.started}"
        ended = "" if row.exit == "-" else f"\nended: {row.exit}"
        colour = "" if row.exit in ("-", "0") else ", color=red"
        yield f"  {node} [label={_quoted(f'{row.pid} {row.command}{ended}')}{colour}];"
        # The tree has it below its service's first process, since its parent is missing.
        yield f"  {service} -> {node} [style=dashed];" if row.adopted else f"  {parent} -> {node};"
        parents += [(child, node) for child in row.children]


def _quoted(text: str) -> str:
    lines = [printable(line) for line in text.split("\n")]
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
