"""The activation environment, and what may stand in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.errors import InvalidArgs, LimitsExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# In bytes. execve takes no string longer than MAX_ARG_STRLEN (32 pages, of 4 KiB at
# least), and of all arguments and variables no more than a quarter of the limit on the
# stack, which is 8 MiB nearly everywhere: half of that, so that arguments fit too.
MAX_VARIABLE: Final = 131_072
MAX_TOTAL: Final = 1 << 20
# Characters of what a client sent, and entries of it, that a message of ours repeats.
QUOTED: Final = 60
LISTED: Final = 5


def check_name(name: str) -> None:
    """Refuse what ``execve`` cannot carry as a variable's name.

    Raises:
        InvalidArgs: the text quotes the name.
    """
    if not name or "=" in name or "\0" in name or "\n" in name:
        raise InvalidArgs(f"not the name of an environment variable: {quote(name)}")


def check_value(name: str, value: str) -> None:
    """Refuse values that cannot be carried: NUL ends a string in the kernel's view.

    A newline is legal: exported shell functions and certificates have many.

    Raises:
        InvalidArgs: the text quotes the name, and the value as far as it is short.
    """
    if "\0" in value:
        raise InvalidArgs(f"NUL in the value of {shorten(name)}: {quote(value)}")
    size = _size(name, value)
    if size > MAX_VARIABLE:
        raise InvalidArgs(f"{shorten(name)} has {size} bytes, and {MAX_VARIABLE} can be carried")


def parse_assignment(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=value``.

    Raises:
        InvalidArgs: it is none.
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
        LimitsExceeded: it would be larger than ``MAX_TOTAL``. One that was so from
            the start may be changed, but not grow.
    """
    merged = {**environment, **changes}
    total = size(merged)
    if total > MAX_TOTAL and total > size(environment):
        raise LimitsExceeded(
            f"the activation environment would have {total} bytes, and {MAX_TOTAL} are allowed"
        )
    return merged


def size(environment: Mapping[str, str]) -> int:
    """What it takes of the room that execve has, in bytes."""
    return sum(_size(name, value) + 8 for name, value in environment.items())  # 8: its pointer


def _size(name: str, value: str) -> int:
    """Of the string "NAME=value" with its NUL; more where it is not UTF-8."""
    return sum(len(each.encode("utf-8", "surrogatepass")) + 1 for each in (name, value))


def largest(environment: Mapping[str, str]) -> str:
    """The name of the variable that takes most room."""
    return max(environment, key=lambda name: _size(name, environment[name]))


def quote(text: str) -> str:
    """A client's text as our messages repeat it: in one line, and not megabytes of it."""
    return repr(text) if len(text) <= QUOTED else f"{text[:QUOTED]!r}…"


def shorten(text: str) -> str:
    """Like ``quote``, but a plain word is left plain."""
    return text if text.isidentifier() and len(text) <= QUOTED else quote(text)


def listed(texts: Iterable[str]) -> list[str]:
    """The first few, and how many there are besides."""
    every = list(texts)
    more = len(every) - LISTED
    return every[:LISTED] + ([f"and {more} more"] if more > 0 else [])


def loads_code(name: str) -> bool:
    """Whether the variable makes programs run code that is not their own.

    Those of ld.so(8) that its secure mode ignores for that reason, and the like of
    interpreters. Same user, so it is allowed; but whoever looks for the cause of a
    changed service should find it in the log.
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
