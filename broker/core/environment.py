"""The activation environment, and what may stand in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidArgs

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_name(name: str) -> None:
    """Refuse what ``execve`` cannot carry as a variable's name.

    Raises:
        InvalidArgs: the text quotes the name.
    """
    if not name or "=" in name or "\0" in name or "\n" in name:
        raise InvalidArgs(f"not the name of an environment variable: {name!r}")


def check_value(name: str, value: str) -> None:
    r"""Refuse values that cannot be carried, or that scripts read as two lines.

    NUL ends a string in the kernel's view. A newline is legal there, but no
    value of a session needs one, and what reads ``env`` line by line would see
    a second variable.

    Raises:
        InvalidArgs: the text quotes both.
    """
    if "\0" in value or "\n" in value:
        raise InvalidArgs(f"NUL or newline in the value of {name}: {value!r}")


def parse_assignment(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=value``.

    Raises:
        InvalidArgs: it is none.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidArgs(f"not an assignment (NAME=value): {text!r}")
    check_name(name)
    check_value(name, value)
    return name, value


# Of the broker's own environment, what means something for the broker alone:
# the descriptors and the socket that its own supervisor gave it, and whose
# service it is. (dbus-daemon strips the same, WATCHDOG_* excepted.)
PRIVATE = frozenset(
    {
        "DBUS_STARTER_ADDRESS",
        "DBUS_STARTER_BUS_TYPE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The activation environment to begin with."""
    return {name: value for name, value in environ.items() if name not in PRIVATE}
