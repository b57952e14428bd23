"""The timeline: well-formed, a row for everything, and nothing outside of its place."""

from __future__ import annotations

import time
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

from broker.cli import plot
from broker.client.snapshot import Snapshot

SVG: Final = "{http://www.w3.org/2000/svg}"
LEFT: Final = plot.MARGIN + plot.LABELS
RIGHT: Final = LEFT + plot.CHART
SECOND: Final = 1_000_000
BARS: Final = {"waiting", "activating", "active", "external", "failed", "process", "adopted"}


def service(name: str, *activations: list[Any], active: int = 0) -> dict[str, Any]:
    """One with its activations; or owned by another process, since ``active``."""
    return {
        "Name": name,
        "ActiveState": "active" if active else "inactive",
        "ActiveEnterTimestampMonotonic": active,
        "ActiveExitTimestampMonotonic": 0,
        "Activations": list(activations),
    }


def activation(
    requested: int, owned: int = 0, ended: int = 0, result: str = "success"
) -> list[Any]:
    """A row of the property, one that is under way by default."""
    started = requested + 2000
    times = [usec for at in (requested, started, owned, ended) for usec in (1, at)]
    return [1, 100, *times, result]


def process(name: str, pid: int, start: int, **changes: Any) -> dict[str, Any]:
    """One that runs."""
    return {
        "ServiceName": name,
        "PID": pid,
        "Origin": "spawned",
        "StartTimestampMonotonic": start,
        "ExitTimestampMonotonic": 0,
        "ExitCode": 0,
        "ExitStatus": 0,
        "Command": ["/usr/libexec/" + "x" * 60, "<&>", "\x1b[31m", "]]>"],
    } | changes


def snapshot(count: int) -> Snapshot:
    """This number of services of every kind, with processes, over the last three seconds."""
    begin = time.monotonic_ns() // 1000 - 3 * SECOND
    services, processes = [], []
    for number in range(count):
        at = begin + number * 2 * SECOND // count
        name = f"org.example.{'x' * (number % 40)}.S{number}"
        pid = 100 * number
        match number % 6:
            case 0:  # runs
                services.append(service(name, activation(at, at + 80_000)))
                processes.append(process(name, pid, at))
            case 1:  # fails, in no time that could be seen
                failed = activation(at, ended=at + 1, result="exit-code")
                services.append(service(name, failed))
                end = {"ExitTimestampMonotonic": at + 1, "ExitCode": 1, "ExitStatus": 3}
                processes.append(process(name, pid, at, **end))
            case 2:  # daemonizes, a second time
                first = activation(at, at + 40_000, at + 90_000)
                services.append(service(name, first, activation(at + 100_000, at + 180_000)))
                end = {"ExitTimestampMonotonic": at + 9, "ExitCode": 1}
                processes.append(process(name, pid, at, **end))
                processes.append(process(name, pid + 1, at, Origin="adopted"))
            case 3:  # somebody else's
                services.append(service(name, active=at))
                late = begin + 3 * SECOND  # where the picture ends, but for some milliseconds
                processes.append(process(name, pid, late, ExitTimestampMonotonic=late + 1))
            case 4:  # has failed just now, after many processes
                failed = activation(at, ended=begin + 3 * SECOND, result="timeout")
                services.append(service(name, failed))
                processes += [process(name, pid + each, at + each) for each in range(20)]
            case 5:
                services.append(service(name, activation(at)))
    return Snapshot(
        {f"/{number}": each for number, each in enumerate(services)},
        {f"/p{number}": each for number, each in enumerate(processes)},
    )


def drawn(found: Snapshot) -> ET.Element:
    return ET.fromstring("\n".join(plot.svg(found, "title <&>")))


def texts(picture: ET.Element, anchor: str) -> list[tuple[float, float, ET.Element]]:
    """The rows' texts with such an anchor: place and element."""
    found = [each for each in picture.iter(f"{SVG}text") if each.get("text-anchor", "") == anchor]
    return [(float(each.get("x", 0)), float(each.get("y", 0)), each) for each in found]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 100])
def test_a_row_for_each_service_and_process(count: int) -> None:
    found = snapshot(count)
    picture = drawn(found)
    labels = [each.findtext(f"{SVG}title") for x, _, each in texts(picture, "end") if x == LEFT - 8]
    names = [each["Name"] for each in found.services.values()]
    assert [each for each in labels if each in names] == names
    assert len(labels) == len(names) + len(found.processes)
    rows = [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "row"]
    assert len(rows) == len(names)


@pytest.mark.parametrize("count", [1, 5, 6, 100])
def test_nothing_leaves_its_place(count: int) -> None:
    picture = drawn(snapshot(count))
    width, height = (float(picture.get(each, "")) for each in ("width", "height"))
    legend = height - plot.FOOT
    bars: dict[float, list[tuple[float, float]]] = {}
    for each in picture.iter(f"{SVG}rect"):
        if each.get("class") in BARS and float(each.get("y", "")) < legend:
            x, wide = (float(each.get(key, "")) for key in ("x", "width"))
            assert x >= LEFT - 0.1
            assert x + wide <= RIGHT + 0.1
            middle = float(each.get("y", "")) + float(each.get("height", "")) / 2
            bars.setdefault(middle, []).append((x, x + wide))
    for anchor in ("", "end"):
        for x, y, each in texts(picture, anchor):
            if y <= plot.HEAD or y >= legend or x == LEFT - 8:
                continue
            kind = each.get("class", "")
            wide = len(each.text or "") * plot.LETTER[kind]
            begin, end = (x, x + wide) if anchor == "" else (x - wide, x)
            assert begin >= 0
            assert end <= width
            (row,) = [spans for middle, spans in bars.items() if abs(middle - y) < 8]
            assert all(end <= left or begin >= right for left, right in row)


def test_the_axis_is_at_both_ends() -> None:
    picture = drawn(snapshot(100))
    heights = {y for _, y, _ in texts(picture, "middle")}
    assert len(heights) == 2
    assert max(heights) > float(picture.get("height", "")) - plot.FOOT


def test_every_activation_has_its_bars() -> None:
    """Started three times, of which one failed; then another process owns it."""
    at = time.monotonic_ns() // 1000 - 3 * SECOND
    known = (
        activation(at, at + 100_000, at + 400_000),
        activation(at + 500_000, ended=at + 700_000, result="timeout"),
        activation(at + 800_000, at + 900_000, at + SECOND, "signal"),
    )
    picture = drawn(Snapshot({"/": service("a.b", *known, active=at + 2 * SECOND)}, {}))
    kinds = [
        each.get("class", "")
        for each in picture.iter(f"{SVG}rect")
        if each.find(f"{SVG}title") is not None
    ]
    assert kinds == [
        *("waiting", "activating", "active"),
        *("waiting", "failed"),
        *("waiting", "activating", "active"),
        "external",
    ]
    assert len([each for each in picture.iter(f"{SVG}line") if each.get("class") == "end"]) == 2
    assert "3 activations" in [each.text for each in picture.iter(f"{SVG}text")]
