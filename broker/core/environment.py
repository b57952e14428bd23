"""The activation environment, and the variables that it may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.errors import InvalidArgs, LimitsExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# In bytes. execve takes no string longer than MAX_ARG_STRLEN (32 pages, of 4 KiB at
# least). All arguments and variables together may take a quarter of the limit on the
# stack, which is 8 MiB nearly everywhere: variables get half of that, arguments the rest.
MAX_VARIABLE: Final = 131_072
MAX_TOTAL: Final = 1 << 20
# How many characters of a client's text, and how many entries, our messages repeat.
QUOTED: Final = 60
LISTED: Final = 5


def check_name(name: str) -> None:
    """Refuse a variable's name that ``execve`` cannot carry.

    Raises:
        InvalidArgs: the text quotes the name.
    """
    if not name or "=" in name or "\0" in name or "\n" in name:
        raise InvalidArgs(f"not the name of an environment variable: {quote(name)}")


def check_value(name: str, value: str) -> None:
    """Refuse a value that ``execve`` cannot carry: for the kernel, NUL ends a string.

    A newline is legal: exported shell functions and certificates have many.

    Raises:
        InvalidArgs: the text quotes the name and the value, shortened.
    """
    if "\0" in value:
        raise InvalidArgs(f"NUL in the value of {shorten(name)}: {quote(value)}")
    size = _size(name, value)
    if size > MAX_VARIABLE:
        raise InvalidArgs(f"{shorten(name)} has {size} bytes, and {MAX_VARIABLE} are allowed")


def parse_assignment(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=value``.

    Raises:
        InvalidArgs: the text is no assignment.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidArgs(f"not an assignment (NAME=value): {quote(text)}")
    check_name(name)
    check_value(name, value)
    return name, value


def merge(environment: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """The environment with the changes made.

    Raises:
        LimitsExceeded: it would grow beyond ``MAX_TOTAL``. An environment that was
            larger from the start may change, but not grow.
    """
    merged = {**environment, **changes}
    total = size(merged)
    if total > MAX_TOTAL and total > size(environment):
        raise LimitsExceeded(
            f"the activation environment would have {total} bytes, and {MAX_TOTAL} are allowed"
        )
    return merged


def size(environment: Mapping[str, str]) -> int:
    """The bytes that the environment takes up in execve."""
    return sum(_size(name, value) + 8 for name, value in environment.items())  # 8: its pointer


def _size(name: str, value: str) -> int:
    """The bytes of "NAME=value" with its NUL; more than those where it is not UTF-8."""
    return sum(len(each.encode("utf-8", "surrogatepass")) + 1 for each in (name, value))


def largest(environment: Mapping[str, str]) -> str:
    """The name of the largest variable."""
    return max(environment, key=lambda name: _size(name, environment[name]))


def quote(text: str) -> str:
    """A client's text as our messages repeat it: one short line."""
    return repr(text) if len(text) <= QUOTED else f"{text[:QUOTED]!r}…"


def shorten(text: str) -> str:
    """Like ``quote``, but a short identifier gets no quotes."""
    return text if text.isidentifier() and len(text) <= QUOTED else quote(text)


def listed(texts: Iterable[str]) -> list[str]:
    """The first few texts, and the number of the others."""
    every = list(texts)
    more = len(every) - LISTED
    return every[:LISTED] + ([f"and {more} more"] if more > 0 else [])


def loads_code(name: str) -> bool:
    """Whether the variable makes programs run code that is not their own.

    These are the variables that ld.so(8) ignores in secure mode for that reason, and their
    counterparts for interpreters. The caller has the same user, so it is allowed; but the
    log should show the cause of a service's changed behaviour.
    """
    return name.startswith("LD_") or name in _LOADERS


_LOADERS: Final = {
    "BASH_ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "JAVA_TOOL_OPTIONS",
    "NODE_OPTIONS",
    "PERL5LIB",
    "PERL5OPT",
    "PYTHONHOME",
    "PYTHONPATH",
    "RUBYLIB",
    "RUBYOPT",
}

# Variables with a meaning for the broker alone: they name the descriptors and the
# socket that its own supervisor gave it, and the service that it is itself.
# (dbus-daemon strips the same, WATCHDOG_* excepted.)
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
    """The initial activation environment."""
    return {name: value for name, value in environ.items() if name not in PRIVATE}
