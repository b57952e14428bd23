"""A timeline of services and their processes as SVG, in the manner of ``systemd-analyze plot``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape, quoteattr

from broker.cli import exits, words
from broker.client.snapshot import activations
from broker.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.client.snapshot import Activation, Snapshot

# In pixels.
CHART: Final = 1000  # the whole time
MARGIN: Final = 24
LABELS: Final = 280  # left of the chart
_NOTES: Final = 290  # right of it, for labels of bars that end there
_SERVICE: Final = 20  # the height of a row
_PROCESS: Final = 14
HEAD: Final = 64
FOOT: Final = 64
_THINNEST: Final = 2  # a bar of a microsecond can be seen
# The approximate width of a letter, in the fonts of a note and of a failure.
LETTER: Final = {"small": 5.2, "bad": 7.0}

_LONGEST_COMMAND: Final = 38
_LONGEST_NAME: Final = 38
# The approximate number of vertical lines.
_TICKS: Final = 10

_STYLE: Final = """\
    text { font-family: "DejaVu Sans", "Liberation Sans", sans-serif; font-size: 11px; fill: #222 }
    .title { font-size: 15px; font-weight: bold }
    .small { font-size: 9px; fill: #555 }
    .bad { fill: #b00020; font-weight: bold }
    .grid { stroke: #ddd; stroke-width: 1 }
    .row { fill: #f6f6f6 }
    .waiting { fill: #c9c9c9 }
    .activating { fill: #f0a63c }
    .active { fill: #69b36c }
    .external { fill: #7fa8d9 }
    .failed { fill: #d8404d }
    .process { fill: #5b7083 }
    .adopted { fill: url(#stripes); stroke: #7b4fa0; stroke-width: 1 }
    .end { stroke: #b00020; stroke-width: 2 }"""
_LEGEND_WORDS: Final = (
    ("waiting", "requested"),
    ("activating", "started, no name yet"),
    ("active", "owns its name"),
    ("external", "owned by a process that was not activated"),
    ("failed", "activation failed"),
    ("process", "process"),
    ("adopted", "adopted process"),
)


@dataclass(frozen=True, slots=True)
class _Bar:
    """From ``start`` to ``end`` on the monotonic clock, in microseconds; ``bad`` marks its end."""

    start: int
    end: int
    kind: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the picture; ``bad`` is its last end."""

    label: str
    bars: Sequence[_Bar]
    note: str
    height: int
    bad: bool

    @property
    def start(self) -> int:
        """Of the first bar."""
        return self.bars[0].start


def svg(snapshot: Snapshot, title: str) -> Iterator[str]:
    """The lines of the picture."""
    now = time.monotonic_ns() // 1000
    rows = list(_rows(snapshot, now))
    starts = [bar.start for row in rows for bar in row.bars]
    first = min(starts, default=now)
    whole = max((bar.end for row in rows for bar in row.bars), default=now) - first
    scale = CHART / max(whole, 1)
    width = 2 * MARGIN + LABELS + CHART + _NOTES
    height = HEAD + sum(row.height for row in rows) + FOOT
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">'
    )
    title = printable(title)
    yield f"  <title>{escape(title)}</title>"
    yield f"  <style>\n{_STYLE}\n  </style>"
    yield (
        '  <defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" fill="#d9c7ea"/>'
        '<rect width="3" height="6" fill="#a885c6"/></pattern></defs>'
    )
    yield f'  <rect width="{width}" height="{height}" fill="#fff"/>'
    services = sum(row.height == _SERVICE for row in rows)
    about = f"{title}: {services} services, {words.span(whole)} from the first request"
    yield f'  <text class="title" x="{MARGIN}" y="26">{escape(about)}</text>'
    yield from _axis(whole, scale, height - FOOT)
    y = HEAD
    for row in rows:
        yield from _draw(row, y, first, scale)
        y += row.height
    yield from _legend(y + 44)
    yield "</svg>"


# -- what is shown -----------------------------------------------------------------------


def _rows(snapshot: Snapshot, now: int) -> Iterator[_Row]:
    for service, row in sorted(_service_rows(snapshot, now), key=lambda pair: pair[1].start):
        yield row
        records = [
            each
            for each in snapshot.processes.values()
            if each["ServiceName"] == service["Name"]
            # From a forgotten activation, which the service's own row does not show either.
            and (each["ExitTimestampMonotonic"] or now) >= row.start
        ]
        records.sort(key=lambda each: each["StartTimestampMonotonic"])
        for each in records:
            yield _process_row(each, now)


def _service_rows(snapshot: Snapshot, now: int) -> Iterator[tuple[dict[str, Any], _Row]]:
    for service in snapshot.services.values():
        known = activations(service)
        bars = [bar for each in known for bar in _bars(each, now)]
        notes = [_note(each) for each in known[-1:]]
        if (foreign := _foreign(service, known, now)) is not None:
            bars.append(foreign)
            notes = [""]
        if len(known) > 1:
            notes.append(f"{len(known)} activations")
        if bars:
            bad = bars[-1].bad
            note = "; ".join(filter(None, notes))
            yield service, _Row(service["Name"], bars, note, _SERVICE, bad=bad)


def _bars(activation: Activation, now: int) -> Iterator[_Bar]:
    requested, owned, end = activation.requested, activation.owned, activation.ended or now
    begun = min(max(activation.started, requested), owned or end)
    failed = activation.result != "success"
    yield _Bar(requested, begun, "waiting")
    if owned:
        yield _Bar(begun, owned, "activating")
        yield _Bar(owned, end, "active", bad=failed)
    else:
        yield _Bar(begun, end, "failed" if failed else "activating", bad=failed)


def _note(activation: Activation) -> str:
    owned, ended = (each - activation.requested for each in (activation.owned, activation.ended))
    if activation.owned:
        text = words.span(owned)
    elif not activation.ended:
        text = "activating"
    else:
        failed = activation.result != "success"
        text = f"{'failed' if failed else 'stopped'} after {words.span(ended)}"
    result = printable(activation.result)
    return text if result == "success" else f"{text}, {result}"


def _foreign(service: dict[str, Any], known: Sequence[Activation], now: int) -> _Bar | None:
    """The last period of ownership of the name, if it belongs to no activation."""
    if any(not each.ended for each in known):
        return None
    begin = max([service["ActiveEnterTimestampMonotonic"], *(each.ended for each in known)])
    end = now if service["ActiveState"] == "active" else service["ActiveExitTimestampMonotonic"]
    return _Bar(begin, end, "external") if 0 < begin < end else None


def _process_row(process: dict[str, Any], now: int) -> _Row:
    end = process["ExitTimestampMonotonic"] or now
    kind = "adopted" if process["Origin"] == "adopted" else "process"
    word = exits.exit_word(process["ExitCode"], process["ExitStatus"])
    # The picture has no room for the program's directory.
    program, *arguments = process["Command"] or [""]
    command = printable(" ".join([os.path.basename(program), *arguments]))
    if len(command) > _LONGEST_COMMAND:
        command = command[: _LONGEST_COMMAND - 1] + "…"
    note = command if word in ("-", "0") else f"{command}  ended: {word}"
    bad = word not in ("-", "0")
    return _Row(
        f"{process['PID']}{' (adopted)' if kind == 'adopted' else ''}",
        [_Bar(process["StartTimestampMonotonic"], end, kind, bad)],
        note,
        _PROCESS,
        bad,
    )


# -- how it is drawn -----------------------------------------------------------------------


def _axis(whole: int, scale: float, bottom: int) -> Iterator[str]:
    step = _step(whole)
    for number in range(whole // step + 1):
        x = MARGIN + LABELS + number * step * scale
        yield f'  <line class="grid" x1="{x:.1f}" y1="{HEAD - 8}" x2="{x:.1f}" y2="{bottom + 4}"/>'
        # At both ends: with a hundred services only one end is in view.
        for y in (HEAD - 12, bottom + 14):
            yield (
                f'  <text class="small" x="{x:.1f}" y="{y}" text-anchor="middle">'
                f"{words.span(number * step) if number else '0'}</text>"
            )


def _step(whole: int) -> int:
    """A round number of microseconds between two lines: 1, 2 or 5 of a power of ten."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if whole <= size * factor * _TICKS:
                return size * factor
        size *= 10


def _draw(row: _Row, y: int, first: int, scale: float) -> Iterator[str]:
    left = MARGIN + LABELS
    is_service = row.height == _SERVICE
    if is_service:
        width = LABELS + CHART + _NOTES
        high = row.height - 1
        yield f'  <rect class="row" x="{MARGIN}" y="{y}" width="{width}" height="{high}"/>'
    baseline = y + row.height - (6 if is_service else 4)
    kind = "" if is_service else ' class="small"'
    label = row.label
    if len(label) > _LONGEST_NAME:
        label = "…" + label[-_LONGEST_NAME + 1 :]
    yield (
        f'  <text{kind} x="{left - 8}" y="{baseline}" text-anchor="end">{escape(label)}'
        f"<title>{escape(row.label)}</title></text>"
    )
    begin, edge = float(left + CHART), float(left)
    top, thick = y + 3, row.height - 6
    for bar in row.bars:
        x = left + (bar.start - first) * scale
        wide = (bar.end - bar.start) * scale
        if wide <= 0:
            continue
        wide = max(wide, _THINNEST)
        x = min(x, left + CHART - wide)
        title = escape(words.span(bar.end - bar.start))
        yield (
            f'  <rect class={quoteattr(bar.kind)} x="{x:.1f}" y="{top}" width="{wide:.1f}" '
            f'height="{thick}"><title>{title}</title></rect>'
        )
        begin, edge = min(begin, x), max(edge, x + wide)
        if bar.bad:
            at = f"{x + wide:.1f}"
            yield f'  <line class="end" x1="{at}" y1="{top - 1}" x2="{at}" y2="{top + thick + 1}"/>'
    words_kind = "bad" if row.bad and is_service else "small"
    x, anchor = _place(row.note, words_kind, begin, edge)
    yield (
        f'  <text class="{words_kind}" x="{x:.1f}" y="{baseline}"{anchor}>{escape(row.note)}</text>'
    )


def _place(note: str, kind: str, begin: float, edge: float) -> tuple[float, str]:
    """The position of a note: after the bars, or before them if it would leave the picture."""
    wide = len(note) * LETTER[kind]
    left, right = MARGIN + LABELS, MARGIN + LABELS + CHART + _NOTES
    if edge + 6 + wide <= right:
        return edge + 6, ""
    return (begin - 6 if begin - 6 - wide >= left else right), ' text-anchor="end"'


def _legend(y: int) -> Iterator[str]:
    x = MARGIN + LABELS
    for kind, text in _LEGEND_WORDS:
        yield f'  <rect class="{kind}" x="{x}" y="{y - 9}" width="14" height="10"/>'
        yield f'  <text class="small" x="{x + 19}" y="{y}">{text}</text>'
        x += 34 + 6 * len(text)
