"""``status``: the state of services, in human-readable form."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import exits, logs, output, print_error_line, query, tree, words
from broker.client.snapshot import activations
from broker.core.printable import printable
from broker.errors import NoSuchProcess, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.client.client import Client
    from broker.client.snapshot import Snapshot

_LAST_LINES: Final = 10
_LARGEST_PID: Final = 2**32 - 1
_BULLETS: Final = {
    "active": "●",
    "activating": "●",
    "deactivating": "●",
    "failed": "×",
    "inactive": "○",
}


@click.command("status", short_help="Show the state of services.")
@click.argument("targets", metavar="[NAME|PID]...", nargs=-1, shell_complete=query.complete_names)
@query.query_options
def command(targets: tuple[str, ...], where: str | None, **options: Any) -> None:
    """Show services: state, processes, last exit, activation, last lines of output.

    A PID stands for its service, else for the names that it owns. Without arguments, the
    bus as a whole is shown. The exit status is 0 if all are active, 3 if one is not,
    4 if one is unknown.

    \b
    Example:
      dbus-activator status org.example.Flaky
    """
    mode = query.json_mode(options)
    status = 0
    with query.connect(where) as remote:
        if not targets:
            _show_bus(remote, mode)
            return
        found = []
        for target in targets:
            try:
                found += _paths(remote, target)
            except RemoteError as e:
                if not query.is_unknown(e):
                    raise
                print_error_line(str(e))
                status = query.UNKNOWN
        snapshot = remote.snapshot()
        tails = {
            each["Name"]: logs.tail(remote, each["Name"], _LAST_LINES)
            for each in map(snapshot.services.get, found)
            if each is not None
        }
    if found:
        query.note_processes(snapshot)
    services = [snapshot.services[path] for path in found if path in snapshot.services]
    if any(each["ActiveState"] != "active" for each in services):
        status = status or query.NOT_RUNNING
    if mode != "off":
        query.print_json([_json(each, snapshot, tails[each["Name"]]) for each in services], mode)
    else:
        for number, each in enumerate(services):
            if number:
                print()
            for line in [*_lines(each, snapshot), *_log_lines(tails[each["Name"]])]:
                print(line)
    sys.exit(status)


def _paths(remote: Client, target: str) -> list[str]:
    if target.isascii() and target.isdecimal():
        if int(target[:20]) > _LARGEST_PID:
            # Too large for the call's argument.
            name = NoSuchProcess.dbus_name
            raise RemoteError(name, f"process {target} belongs to no service of this bus")
        try:
            return list(remote.ask("GetServiceByPID", "u", int(target)))
        except RemoteError as e:
            # Not a service's process, but perhaps another client: then by the names that it owns.
            if query.is_unknown(e) and (owned := _owned_by(remote, int(target))):
                return owned
            raise
    return list(remote.ask("GetService", "s", target))


def _owned_by(remote: Client, pid: int) -> list[str]:
    services = remote.snapshot().services
    return [path for path, each in services.items() if pid and each.get("OwnerPID") == pid]


def _json(service: dict[str, Any], snapshot: Snapshot, log: list[dict[str, Any]]) -> dict[str, Any]:
    name = service["Name"]
    processes = [each for each in snapshot.processes.values() if each["ServiceName"] == name]
    return service | {"Processes": processes, "Log": log}


# -- one service -----------------------------------------------------------------------


def _lines(service: dict[str, Any], snapshot: Snapshot) -> Iterator[str]:
    columns = output.width()
    state = service["ActiveState"]
    colour = output.STATE_COLOURS[state]
    bullet = output.paint(_BULLETS[state], colour)
    yield f"{bullet} {output.clip(service['Name'], columns and columns - 2)}"
    for label, text in _facts(service):
        cut = output.clip(text, columns and columns - 13)
        if label == "Active":
            word = cut.split(" ", 1)[0]
            cut = output.paint(word, colour) + cut.removeprefix(word)
        yield f"{label:>11}: {cut}"
    roots = tree.rows(snapshot, service=service["Name"], exited=False)
    count = sum(1 for root in roots for _ in tree.branches(root))
    if count:
        yield f"{'Processes':>11}: {count}"
    for root in roots:
        for row, branch in tree.branches(root):
            adopted = "  (adopted)" if row.adopted else ""
            text = f"{'':13}{row.pid:>7} {branch}{printable(row.command)}{adopted}"
            yield output.clip(text, columns)


def _facts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Loaded", printable(service["DescriptorPath"])
    for path in service.get("Shadowed", ()):
        yield "Shadowed", printable(path)
    yield "Active", _active(service)
    if service["ExecMainPID"]:
        command = printable(" ".join(service["ExecStart"]))
        if service["MainPID"]:
            yield "Main PID", str(service["MainPID"])
        else:
            how = exits.exit_words(service["ExecMainCode"], service["ExecMainStatus"])
            yield "Process", f"{service['ExecMainPID']} {command} ({how})"
    if service["Owner"]:
        yield "Owner", _owner(service)
    if service["NActivations"]:
        yield "Activation", _activation(service)
    if service["CPUUsageNSec"]:
        yield "CPU", words.span(service["CPUUsageNSec"] // 1000)
    if service["MemoryPeak"]:
        yield "Memory", f"{words.size(service['MemoryPeak'])} (peak)"


def _owner(service: dict[str, Any]) -> str:
    text = str(service["Owner"])
    if pid := service.get("OwnerPID"):
        text += f", {pid} {printable(' '.join(service.get('OwnerCommand', ())))}"
    return text.rstrip()


def _active(service: dict[str, Any]) -> str:
    state, result = service["ActiveState"], service["Result"]
    why = f"Result: {result}" if result != "success" else service["SubState"]
    text = f"{state} ({why})"
    if since := service["StateChangeTimestamp"]:
        text += f" since {words.moment(since)}; {words.ago(since)}"
    return text


def _activation(service: dict[str, Any]) -> str:
    text = f"#{service['NActivations']}"
    for last in activations(service)[-1:]:
        if last.owned:
            text += f", took {words.span(last.owned - last.requested)}"
        elif last.ended:
            how = "stopped" if last.result == "success" else "failed"
            text += f", {how} after {words.span(last.ended - last.requested)}"
    if service["NFailures"]:
        text += f"; {service['NFailures']} failed"
    return text


def _log_lines(log: list[dict[str, Any]]) -> Iterator[str]:
    columns = output.width()
    for entry in log:
        yield output.clip(f"   {logs.line(entry)}", columns)


# -- the bus -----------------------------------------------------------------------------


def _show_bus(remote: Client, mode: str) -> None:
    about = remote.manager()
    if mode != "off":
        if not about["Environment"]:  # it has at least a PATH
            query.note_withheld("the environment is")
        query.print_json(about, mode)
        return
    columns = output.width()
    (rows,) = remote.ask("ListServiceStates")
    failed = [row[0] for row in rows if row[3] == "failed"]
    active = sum(row[3] == "active" for row in rows)
    bullet = output.paint("×" if failed else "●", "red" if failed else "green")
    print(f"{bullet} {output.clip(about['BusAddress'], columns and columns - 2)}")
    facts = {
        "Engine": about["Engine"],
        "Broker": f"dbus-activator {about['Version']}",
        "Services": f"{len(rows)}, {active} active, {len(failed)} failed",
        "Processes": f"{about['NProcesses']} live, {about['NReaped']} reaped",
        "Descriptors": " ".join(map(printable, about["ServiceDirectories"])),
    }
    for label, text in facts.items():
        print(f"{label:>11}: {output.clip(text, columns and columns - 13)}")
    for name in failed:
        print(f"{'':13}{output.paint('×', 'red')} {output.clip(name, columns and columns - 15)}")
