"""Processes as a tree, in the manner of ``ps afx``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from broker.cli import output
from broker.cli.exits import exit_word
from broker.core.printable import printable
from broker.process import clock, procfs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from broker.client.snapshot import Snapshot

# The time, in microseconds, by which a child may seem older than its parent: the kernel knows
# a start to a clock tick, and the broker notes its own children's starts a little late. No PID
# is reused that soon.
_SLACK: Final = 1_000_000
HEADINGS: Final = ("PID", "PPID", "EXIT", "STARTED", "COMMAND")


@dataclass(slots=True)
class Row:
    """One process; ``started`` in microseconds of the monotonic clock.

    Attributes:
        exit: "-" while it runs, then its exit status or the name of its signal.
        origin: "spawned", or "adopted" for an orphan, which is shown below its original
            spawned process; if that is not shown, below the service's main process. Empty
            for a process that is not the broker's child.
        activation: the same for an orphan and its original process; 0 if not known.
    """

    pid: int
    ppid: int
    service: str
    exit: str
    started: int
    command: str
    origin: str = ""
    activation: int = 0
    children: list[Row] = field(default_factory=list)

    @property
    def adopted(self) -> bool:
        """Whether its own parent has ended."""
        return self.origin == "adopted"


def rows(snapshot: Snapshot, *, service: str | None, exited: bool) -> list[Row]:
    """The roots of the trees of one service, or of all: the engine's and orphans' first.

    Args:
        exited: include remembered processes that have ended.
    """
    found: list[Row] = []
    for each in snapshot.processes.values():
        wanted = service is None or each["ServiceName"] == service
        if wanted and (exited or each["State"] == "running"):
            found.append(_of_record(each))
    here = not is_elsewhere(snapshot)
    live = {row.pid for row in found if row.exit == "-"}
    for each in snapshot.services.values():
        if here and (service is None or each["Name"] == service):
            for pid in each["PIDs"]:
                if pid not in live and (row := _of_live(pid, each["Name"])):
                    live.add(pid)
                    found.append(row)
    return _roots(found, {each["MainPID"] for each in snapshot.services.values()})


def _of_record(record: dict[str, Any]) -> Row:
    return Row(
        pid=record["PID"],
        ppid=record["PPID"],
        service=record["ServiceName"],
        exit=exit_word(record["ExitCode"], record["ExitStatus"]),
        started=record["StartTimestampMonotonic"],
        command=" ".join(record["Command"]) or "-",  # it may be withheld
        origin=record["Origin"],
        activation=record.get("Activation", 0),  # a broker of 0.1.0 has none
    )


def _of_live(pid: int, service: str) -> Row | None:
    """A process without a record: a descendant of one of the broker's children."""
    about = procfs.stat(pid)
    if about is None:
        return None
    started = clock.of_ticks(about.start_ticks).monotonic
    return Row(pid, about.ppid, service, "-", started, " ".join(procfs.command(pid)))


def _roots(all_rows: Iterable[Row], mains: Collection[int]) -> list[Row]:
    # Processes of the same tick stay in the order of their discovery.
    all_rows = sorted(all_rows, key=lambda row: row.started)
    # PIDs are reused: there may be several, the oldest first.
    by_pid: dict[int, list[Row]] = {}
    # The root of each activation: the spawned process, or the main one of its orphans.
    heads: dict[tuple[str, int], Row] = {}
    for row in all_rows:
        by_pid.setdefault(row.pid, []).append(row)
        if row.origin == "spawned" or (row.adopted and row.pid in mains):
            head = heads.setdefault((row.service, row.activation), row)
            if head.adopted and not row.adopted:
                heads[row.service, row.activation] = row
    roots = []
    for row in all_rows:
        parent = _parent(row, by_pid.get(row.ppid, ()))
        if parent is None and row.adopted and (row.service or row.activation):
            head = heads.get((row.service, row.activation), row)
            # Not below a younger process, by the kernel's start time.
            parent = head if head is not row and head.started <= row.started else None
        if parent is None:
            roots.append(row)
        else:
            parent.children.append(row)
    for root in roots:
        _put_in_order(root)
    return sorted(roots, key=lambda row: (row.service, row.started))


def _put_in_order(root: Row) -> None:
    """Sort no child before its parent: without a record, only the kernel's tick is known."""
    parents = [root]
    for row in parents:
        for child in row.children:
            if not child.origin:
                child.started = max(child.started, row.started)
        row.children.sort(key=lambda child: child.started)
        parents += row.children


def _parent(row: Row, candidates: Iterable[Row]) -> Row | None:
    """The newest candidate that is older than the row's process, by clocks of two kinds."""
    found = None
    for each in candidates:
        if each is not row and each.started <= row.started + _SLACK:
            found = each
    return found


def lines(roots: Iterable[Row], since: int, *, legend: bool, margin: int = 0) -> Iterator[str]:
    """The table, cut to the terminal.

    Args:
        since: the zero of STARTED, in microseconds.
        margin: the columns before each line, printed by the caller.
    """
    columns = output.width()
    if columns is not None:
        columns = max(columns - margin, 0)
    if legend:
        heading = "{:>7} {:>7}  {:<8} {:<9} {}".format(*HEADINGS)
        yield output.paint(output.clip(heading, columns), "bold")
    service: str | None = None
    for root in roots:
        if root.service != service and root.service:
            yield output.clip(f"{'':36}{root.service}", columns)
        service = root.service
        for row, branch in branches(root):
            started = f"+{(row.started - since) / 1_000_000:.3f}s"
            text = (
                f"{row.pid:>7} {row.ppid:>7}  {row.exit:<8} {started:<9} "
                f"{branch}{printable(row.command)}{'  (adopted)' if row.adopted else ''}"
            )
            yield output.clip(text, columns)


def branches(root: Row, prefix: str = "", below: str = "") -> Iterator[tuple[Row, str]]:
    """Each process of a tree, with its prefix of lines."""
    # Without recursion: a chain of processes may be longer than Python's stack.
    waiting = [(root, prefix, below)]
    while waiting:
        row, prefix, below = waiting.pop()
        yield row, prefix
        for child in reversed(row.children):
            last = child is row.children[-1]
            lead, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
            waiting.append((child, below + lead, below + rest))


def is_elsewhere(snapshot: Snapshot) -> bool:
    """Whether our /proc differs from the broker's, as in a sandbox.

    There, the broker's PIDs are other processes here, or none. So we look for one of its
    children by PID, parent and command. The engine always exists.
    """
    running = [each for each in snapshot.processes.values() if each["State"] == "running"]
    return not any(map(_is_here, running))


def _is_here(record: dict[str, Any]) -> bool:
    about = procfs.stat(record["PID"])
    if about is None or about.ppid != record["PPID"]:
        return False
    # Not by its start, which looks different after a suspend. The command may be withheld.
    return not record["Command"] or procfs.command(record["PID"]) == tuple(record["Command"])
