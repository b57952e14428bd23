"""The bus in a failed test's report, and the files beside it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from broker.core.printable import KEPT, printable
from broker.errors import DBusError
from broker.testing import survivors
from broker.testing.service import ended, how, of_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.client.snapshot import Snapshot
    from broker.testing.bus import Bus

_LOG_LINES: Final = 30
_EVENTS: Final = 100
# A file's name has at most 255 bytes; tests with long parameters have long names.
_LONGEST_NAME: Final = 150


def sections(bus: Bus, test: str) -> list[tuple[str, str]]:
    """Titles and texts for a report of pytest's."""
    try:
        snapshot = bus.look()
    except DBusError as e:
        return [(f"{bus.name}: no answer", f"{e}\n{bus.complaints}".strip())]
    found = [(f"{bus.name}: services", "\n".join(_services(bus, snapshot)))]
    if bus.news:
        found.append((f"{bus.name}: events", "\n".join(_events(bus))))
    if bus.complaints:
        found.append((f"{bus.name}: the broker's own messages", bus.complaints))
    files = _write_files(bus, snapshot, test)
    found.append((f"{bus.name}: files", "\n".join(map(str, files))))
    return found


def _services(bus: Bus, snapshot: Snapshot) -> Iterator[str]:
    used = [each for each in snapshot.services.values() if each["NActivations"] or each["Owner"]]
    yield f"{bus.engine}, {len(used)} of {len(snapshot.services)} services activated"
    for about in used:
        name = about["Name"]
        code = ended(about)
        result = "" if about["Result"] == "success" else f", result {about['Result']}"
        yield f"{name}: {about['ActiveState']} ({about['SubState']}){result}"
        if code is not None:
            yield f"  its main process {about['ExecMainPID']} {how(code)}"
        for process in of_snapshot(snapshot, name):
            state = "running" if process.running else how(process.returncode or 0)
            command = printable(" ".join(process.command))
            yield f"  {process.pid} ({process.origin}, {state})  {command}"
        log = bus.logs.get(name, [])
        if len(log) > _LOG_LINES:
            yield f"  | … {len(log) - _LOG_LINES} lines"
        for line in log[-_LOG_LINES:]:
            yield f"  | {printable(line, keep=KEPT)}"


def _events(bus: Bus) -> Iterator[str]:
    from broker.cli import monitor  # noqa: PLC0415 - for failures alone

    first = bus.news[0]["Time"]
    if len(bus.news) > _EVENTS:
        yield f"… {len(bus.news) - _EVENTS} earlier ones, see the file"
    for event in bus.news[-_EVENTS:]:
        at = (event["Time"] - first) / 1_000_000
        yield f"{at:+.3f}s  {event['Service'] or '-'}  {monitor.text(event)}"


def _write_files(bus: Bus, snapshot: Snapshot, test: str) -> list[Path]:
    from broker.cli import plot  # noqa: PLC0415 - for failures alone

    directory = bus.directory
    if bus.settings.artifacts is not None:
        name = re.sub(r"[^A-Za-z0-9_.\[\]-]+", "-", test)[-_LONGEST_NAME:]
        directory = bus.node.config.invocation_params.dir / bus.settings.artifacts / name
        directory.mkdir(parents=True, exist_ok=True)
    timeline = directory / f"{bus.name}-timeline.svg"
    timeline.write_text("\n".join([*plot.svg(snapshot, test), ""]), encoding="utf-8")
    events = directory / f"{bus.name}-events.jsonl"
    with events.open("w", encoding="utf-8") as file:
        for event in [*bus.news, *map(survivors.as_json, bus.survivors)]:
            file.write(json.dumps(event) + "\n")
    return [timeline, events]
