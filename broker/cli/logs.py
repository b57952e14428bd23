"""``logs``: the output of a service, as far as the broker keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from broker.cli import (
    PATIENCE,
    PROGRAM,
    TIMED_OUT,
    output,
    print_error,
    print_error_line,
    query,
    words,
)
from broker.client.client import is_back
from broker.errors import AccessDenied, NotCaptured, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.client.client import Client

# The members of GetLog's structures; the first is consecutive in a service.
_UINT_MAX: Final = 2**32 - 1
KEYS: Final = ("Serial", "Time", "Monotonic", "Activation", "Stream", "Text")


@click.command("logs", short_help="Print captured output of a service.")
@click.argument("name", shell_complete=query.complete_names)
@click.option("-f", "--follow", is_flag=True, help="Follow its output until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "count",
    metavar="N",
    type=click.IntRange(min=0),
    help="Begin with the newest N lines. Default: all kept lines.",
)
@query.timeout_option(f"With -f: for at most this many seconds, then exit with {TIMED_OUT}.")
@query.query_options
def command(
    name: str,
    where: str | None,
    *,
    follow: bool,
    count: int | None,
    timeout: float | None,
    **options: Any,
) -> None:
    """Print the output of a service with the time, if the broker captures it.

    It is for the broker's own user and root.

    With --json, each line is a document of its own.

    \b
    Example:
      dbus-activator logs -f -n 20 org.example.Flaky
    """
    as_json = query.json_mode(options) != "off"
    deadline = query.end_of_wait(timeout)
    patience = None if follow else PATIENCE
    try:
        with query.connect(where, patience, timeout) as remote:
            log = _Log(remote, name)
            if follow:
                log.subscribe()
            _print(log.newest(count), as_json=as_json)
            for entries, dropped in log.more(deadline) if follow else ():
                if dropped and not options["quiet"]:
                    print_error(f"{PROGRAM}: {dropped} lines were not kept")
                _print(entries, as_json=as_json)
    except KeyboardInterrupt:
        return


def tail(remote: Client, name: str, count: int) -> list[dict[str, Any]]:
    """The newest lines of a service; none if the broker keeps none, or withholds them."""
    try:
        return _Log(remote, name).newest(count)
    except RemoteError as e:
        if e.name == AccessDenied.dbus_name:
            print_error_line(f"the output of {name} is not shown: {e}")
        elif e.name != NotCaptured.dbus_name and not query.is_unknown(e):
            raise
        return []


def line(entry: dict[str, Any]) -> str:
    """A line in human-readable form."""
    return f"{words.moment(entry['Time'])} {entry['Text']}"


def _print(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    for entry in entries:
        if as_json:
            query.print_json(entry, "short")
        else:
            print(output.clip(line(entry), None))


class _Log:
    """A service's log, with our position in it."""

    def __init__(self, remote: Client, name: str) -> None:
        self._remote = remote
        self._name = name
        self._path = ""
        self._last = 0
        self._newest: list[dict[str, Any]] = []

    def subscribe(self) -> None:
        """Subscribe to new lines, before the first are read: so none is missed."""
        # The name must be known to the broker first: a quote in it would end the rule's value.
        (self._path,) = self._remote.ask("GetService", "s", self._name)
        for rule in (f"member='LogAppended',arg0='{self._name}'", "member='InterfacesAdded'"):
            self._remote.subscribe(rule)

    def newest(self, count: int | None) -> list[dict[str, Any]]:
        """The newest lines, or all for None."""
        # 0 means all to GetLog, and it has no other way to return the end of the log.
        entries, _ = self._read(1 if count == 0 else min(count or 0, _UINT_MAX))
        return [] if count == 0 else entries

    def more(self, deadline: float | None) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """New lines as they come, and the number of lost lines before them."""
        for signal in query.signals(self._remote, deadline):
            if is_back(signal):
                yield self._begin_again(), 0
            # Skips a signal for a line that our call has returned already.
            elif signal.member == "LogAppended" and signal.body[1] > self._last:
                yield self._read(0)
            elif signal.member == "InterfacesAdded" and signal.body[0] == self._path:
                yield self._begin_again(), 0

    def _begin_again(self) -> list[dict[str, Any]]:
        """For a new descriptor: the log is new too, unless it continues at our position."""
        newest, self._last = self._newest, max(self._last - 1, 0)
        entries, dropped = self._read(0)
        if dropped or entries[:1] == newest:
            return entries[0 if dropped else 1 :]
        self._last = 0
        return self._read(0)[0]

    def _read(self, lines: int) -> tuple[list[dict[str, Any]], int]:
        entries, dropped = self._remote.ask("GetLog", "stu", self._name, self._last, lines)
        found = [dict(zip(KEYS, entry, strict=True)) for entry in entries]
        if found:
            self._newest = found[-1:]
            self._last = found[-1]["Serial"]
        return found, dropped
