"""Standard output: tables that fit the terminal, and colours on a terminal."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

from broker.core.digits import decimal
from broker.core.printable import KEPT, printable
from broker.errors import OutputRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

# A shell's status for a program that was ended by SIGPIPE, as tools in a pipe are.
BROKEN_PIPE: Final = 128 + 13
_DEFAULT_WIDTH: Final = 80
# The minimum width of a column that is cut to fit the terminal.
_NARROWEST: Final = 8
_WIDEST: Final = 65535  # struct winsize has 16 bits

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
# ActiveState to colour, as in systemctl.
STATE_COLOURS: Final = {
    "active": "green",
    "activating": "yellow",
    "deactivating": "yellow",
    "failed": "red",
    "inactive": "",
}


def finish() -> None:
    """Flush the output, while an error can still be reported.

    Raises:
        OutputRefused: standard output takes no more, such as on a full disk.
        SystemExit: its reader has gone.
    """
    try:
        sys.stdout.flush()
    except OSError as e:
        raise refused(e) from e


def refused(e: OSError) -> OutputRefused | SystemExit:
    """The exception for a standard output that takes no more."""
    # Python flushes again at exit, and would report the error again.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    if e.errno == errno.EPIPE:
        return SystemExit(BROKEN_PIPE)
    return OutputRefused(f"cannot write the output: {e.strerror}")


def width() -> int | None:
    """The terminal's columns; None if the output is not a terminal, and nothing is cut."""
    if not sys.stdout.isatty():
        return None
    if columns := decimal(os.environ.get("COLUMNS", ""), _WIDEST):
        return columns
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _DEFAULT_WIDTH
    except OSError:
        return _DEFAULT_WIDTH


def paint(text: str, colour: str) -> str:
    """Text in a colour, on a terminal without NO_COLOR (https://no-color.org)."""
    if not colour or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def clip(text: str, columns: int | None) -> str:
    """One line without control characters, cut to ``columns``; the cut is shown.

    All text of others passes this function on its way to the output. (JSON has its own escapes.)
    """
    text = printable(text, keep=KEPT)
    if columns is None or len(text) <= columns:
        return text
    return text[: max(columns - 1, 0)] + "…"


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    legend: bool,
    right: Collection[int] = (),
    colours: Sequence[str] = (),
) -> Iterator[str]:
    """Lines of a table.

    Args:
        right: the columns that are aligned to the right.
        colours: one for each row.

    On a terminal the first column is cut until a line fits, and then its end.
    """
    columns = width()
    rows = [[clip(cell, None) for cell in row] for row in rows]
    widths = [
        max(len(row[index]) for row in ([headings] if legend else []) + list(rows))
        for index in range(len(headings))
        if rows or legend
    ]
    if columns is not None and widths:
        excess = sum(widths) + 2 * (len(widths) - 1) - columns
        widths[0] = max(widths[0] - max(excess, 0), min(widths[0], _NARROWEST))
    last = len(headings) - 1

    def line(cells: Sequence[str]) -> str:
        padded = [
            clip(cell, widths[index]).rjust(widths[index])
            if index in right
            else clip(cell, widths[index]).ljust(widths[index] if index < last else 0)
            for index, cell in enumerate(cells)
        ]
        return clip("  ".join(padded).rstrip(), columns)

    if legend:
        yield paint(line(headings), "bold")
    for index, row in enumerate(rows):
        yield paint(line(row), colours[index] if colours else "")
