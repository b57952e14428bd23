"""The common part of all verbs that call a running broker."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker.bus import address
from broker.cli import PATIENCE, numbers, output, print_error_line
from broker.errors import OWN, DBusError, NoReply, RemoteError, ServiceUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.shell_completion import CompletionItem

    from broker.bus.wire import Received
    from broker.client.client import Client
    from broker.client.snapshot import Snapshot

F = TypeVar("F", bound="Callable[..., Any]")

# LSB's codes for the status action of an init script, as systemctl gives them.
NOT_RUNNING: Final = 3
UNKNOWN: Final = 4

_UNKNOWN_NAMES: Final = {ServiceUnknown.dbus_name, f"{OWN}NoSuchProcess"}

# The timeout of a completion (a user waits after Tab), in seconds.
_COMPLETION_PATIENCE: Final = 1.0
# The broker's minimum time for its answers, however short a wait is: a timeout of 0 asks
# for the current state. In seconds.
_SHORTEST: Final = 1.0
# PIDs in one line.
_NAMED: Final = 10
_INT_MAX: Final = 2**31 - 1

_ADDRESS: Final = click.option(
    "--address",
    "where",
    metavar="ADDRESS",
    help="Of the bus. Default: $DBUS_SESSION_BUS_ADDRESS, then $XDG_RUNTIME_DIR/bus.",
)
_OPTIONS: Final = (
    _ADDRESS,
    click.option(
        "--json",
        "json_mode",
        type=click.Choice(["off", "short", "pretty"]),
        default="off",
        help="Print JSON, on one line or for people.",
    ),
    click.option(
        "-j", "json_auto", is_flag=True, help="JSON: pretty on a terminal, short in a pipe."
    ),
    click.option("--no-legend", is_flag=True, help="Print no headings and no footer."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but results."),
)


def query_options(function: F) -> F:
    """Add the shared options to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def complete_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The services of the bus of ``--address``; none where there is no broker."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for this alone

    del param
    try:
        with connect(ctx.params.get("where"), _COMPLETION_PATIENCE) as remote:
            (services,) = remote.ask("ListServices")
    except DBusError:
        # A message would break the user's command line.
        return []
    return [
        CompletionItem(name, help=state)
        for name, _, state, _ in services
        if name.startswith(incomplete)
    ]


def timeout_option(text: str) -> Callable[[F], F]:
    """``--timeout``, of a verb that waits for an event."""
    return click.option("--timeout", metavar="S", type=numbers.SECONDS, help=text)


def connect(
    where: str | None, patience: float | None = PATIENCE, timeout: float | None = None
) -> Client:
    """A connection to the broker.

    Args:
        patience: the timeout of each answer, in seconds. None is for verbs that wait for an
            event: they wait for a stopped broker, too.
        timeout: the user's timeout for the whole verb, in seconds.

    Raises:
        InvalidArgs: no bus address is given, or it is not valid.
        Disconnected: nobody listens there.
        NoReply: the bus does not answer in time.
    """
    from broker.client.client import Client  # noqa: PLC0415 - help and completion of options need none

    limit = None if timeout is None else time.monotonic() + max(timeout, _SHORTEST)
    return Client.connect(bus_address(where), patience, limit)


def end_of_wait(timeout: float | None) -> float | None:
    """The deadline of a wait that begins now, on the monotonic clock; None for never."""
    return None if timeout is None else time.monotonic() + timeout


def bus_address(where: str | None) -> str:
    """The address of the bus.

    Raises:
        InvalidArgs: none is given.
    """
    return where if where is not None else address.default(os.environ)


def is_unknown(e: RemoteError) -> bool:
    """Whether an error means an unknown service or process."""
    return e.name in _UNKNOWN_NAMES


def note_processes(snapshot: Snapshot) -> None:
    """Note if the broker withholds command lines, or our /proc shows other processes."""
    from broker.cli import tree  # noqa: PLC0415 - most verbs draw none

    # The bus itself has a command line.
    if not any(each["Command"] for each in snapshot.processes.values()):
        note_withheld("command lines are")
    recorded = {each["PID"] for each in snapshot.processes.values()}
    unknown = {pid for each in snapshot.services.values() for pid in each["PIDs"]} - recorded
    if unknown and tree.is_elsewhere(snapshot):
        pids = ", ".join(map(str, sorted(unknown)[:_NAMED])) + ", …" * (len(unknown) > _NAMED)
        print_error_line(f"not shown, since the broker has another /proc: {pids}")


def note_withheld(what: str) -> None:
    """Note that something is withheld from us, such as "command lines are"."""
    whose = "for the broker's own user and root"
    print_error_line(f"{what} not shown: only {whose}")


def json_mode(options: dict[str, Any]) -> str:
    """The mode: off, short or pretty."""
    mode: str = options["json_mode"]
    if mode == "off" and options["json_auto"]:
        return "pretty" if sys.stdout.isatty() else "short"
    return mode


def print_json(value: Any, mode: str) -> None:
    """One JSON document; bytes are shown in hexadecimal."""
    import json  # noqa: PLC0415 - tables need none

    if mode == "pretty":
        print(json.dumps(value, indent=2, default=bytes.hex))
    else:
        print(json.dumps(value, separators=(",", ":"), default=bytes.hex))


def signals(remote: Client, deadline: float | None) -> Iterator[Received]:
    """The broker's signals as they come, as long as our output has a reader.

    Args:
        deadline: on the monotonic clock, in seconds; None follows as long as the bus lives.

    Raises: as ``Client.signal``, and
        NoReply: the deadline is over.
        Disconnected: the bus has gone.
        SystemExit: the reader has gone; a write would notice that only with the next line.
    """
    import select  # noqa: PLC0415 - for verbs that follow

    waiting = select.poll()
    waiting.register(remote.bus.fileno(), select.POLLIN)
    # A pipe without a reader reports POLLERR, requested or not (poll(2)).
    waiting.register(sys.stdout.fileno(), 0)
    while True:
        while signal := remote.signal(time.monotonic()):
            yield signal
        sys.stdout.flush()
        limits = [each for each in (deadline, remote.leaving) if each is not None]
        left = min(limits) - time.monotonic() if limits else None
        if deadline is not None and time.monotonic() >= deadline:
            raise NoReply("the timeout has passed")
        ready = waiting.poll(None if left is None else min(max(left * 1000, 0) + 1, _INT_MAX))
        if any(fd != remote.bus.fileno() for fd, _ in ready):
            raise output.refused(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))


def call_each(remote: Client, member: str, calls: list[tuple[Any, ...]]) -> None:
    """Call a method of the Manager several times at once; returns when all are answered.

    Args:
        calls: each a signature and its arguments.

    Raises:
        RemoteError: one of them was refused, with priority for an unknown name; the other
            refusals are on stderr.
    """
    errors = []
    for serial in [remote.send(member, *each) for each in calls]:
        try:
            remote.reply(serial)
        except RemoteError as e:
            errors.append(e)
    errors.sort(key=is_unknown)
    for error in errors[:-1]:
        print_error_line(str(error))
    if errors:
        raise errors[-1]
