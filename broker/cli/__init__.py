"""The command line, ``dbus-activator``: its entry point and exit statuses."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from broker.core.printable import printable
from broker.errors import DBusError, Fault, NoReply, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM: Final = "dbus-activator"
# The variable by which click is asked for a script and for completions: see its "Shell
# Completion".
COMPLETION: Final = "_DBUS_ACTIVATOR_COMPLETE"

# asyncio and dbus-next import these if installed: TLS and GLib. Each would cost the broker
# 4 MB as long as it runs, and every start a fortieth of a second.
_NOT_FOR_US: Final = ("ssl", "gi")

# They may be missing in a Python other than the one that we are installed for.
_DEPENDENCIES: Final = ("click", "dbus_next")
_NOT_INSTALLED: Final = 5  # LSB's code

# A verb's timeout for an answer, in seconds: libdbus's and sd-bus's default.
PATIENCE: Final = 25.0
# A verb's exit status after a timeout, as in timeout(1).
TIMED_OUT: Final = 124
# For a control character in a message.
_KEPT: Final = "\n\t"
# In characters: the maximum of received text in a message.
_LONGEST: Final = 8192

# The errors of a write that the reader, the disk or the terminal does not take.
_WRITE_ERRORS: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def print_error(text: str) -> None:
    """Print lines on standard error; if it is full or closed, they are lost.

    Control characters of others do not reach the terminal. Not by print: its unwritten
    text stays in Python's buffer, is tried again at exit, and makes the exit status 120.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"{printable(text, keep=_KEPT)}\n".encode())


def main() -> None:
    """Run the command; expected failures become one line on stderr."""
    # Before any import of asyncio or dbus-next, which work without these: None marks a module
    # that cannot be imported (Python's reference, The module cache).
    for name in _NOT_FOR_US:
        sys.modules[name] = None  # type: ignore[assignment]
    _open_streams()
    try:
        _run()
    except Fault as e:
        print_error(f"{PROGRAM}: {e}")
        sys.exit(e.exit_status)
    except DBusError as e:
        print_error_line(str(e) or e.dbus_name)
        sys.exit(_status(e))
    except ModuleNotFoundError as e:
        # ``python -m broker`` in a checkout, by a Python without our dependencies.
        if e.name not in _DEPENDENCIES:
            raise
        print_error(
            f"{PROGRAM}: {sys.executable} has no module {e.name}: "
            "install dbus-activator for it with pip"
        )
        sys.exit(_NOT_INSTALLED)


def print_error_line(text: str) -> None:
    """Print one line with text of others on standard error."""
    line = printable(text)
    print_error(f"{PROGRAM}: {line if len(line) <= _LONGEST else line[:_LONGEST] + '…'}")


def _open_streams() -> None:
    """Open missing streams on /dev/null: Python has None in their place.

    Characters outside of a stream's encoding are written as escapes.
    """
    if sys.stdout is None or sys.stderr is None:
        from broker.process import signals  # noqa: PLC0415 - it is never needed otherwise

        signals.open_standard_streams()
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        # ASCII is never a user's choice (PEP 540), and click would bypass such a stream.
        ascii_only = codecs.lookup(stream.encoding).name == "ascii"
        encoding = "utf-8" if ascii_only else stream.encoding
        stream.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]
    # click's messages repeat typed or pasted text.
    sys.stderr.write = _printing(sys.stderr.write)  # type: ignore[method-assign]


def _printing(write: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: write(printable(text, keep=_KEPT))


def _run() -> None:
    from broker.cli import output  # noqa: PLC0415 - completion needs none of it

    stdout = sys.stdout
    try:
        try:
            _command()(prog_name=PROGRAM)
        finally:
            if sys.stdout is not stdout:
                # click has caught EPIPE, and would exit with 1 behind a wrapper of its own.
                sys.stdout = stdout
                raise output.refused(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            output.finish()
    except OSError as e:
        # An error about a file names it, and a verb adds its own context.
        if e.filename is not None or e.errno not in _WRITE_ERRORS:
            raise
        raise output.refused(e) from e


def _command() -> Callable[..., Any]:
    """The command for the name that we are called by."""
    if os.path.basename(sys.argv[0]) == "dbus-daemon":
        from broker.cli import dbus_daemon  # noqa: PLC0415 - verbs need none of it

        return dbus_daemon.command
    from broker.cli.verbs import cli  # noqa: PLC0415 - the stand-in needs none of it

    return cli


def _status(e: DBusError) -> int:
    if isinstance(e, NoReply):
        return TIMED_OUT
    if isinstance(e, RemoteError):
        from broker.cli import query  # noqa: PLC0415 - it has been imported by now

        if query.is_unknown(e):
            return query.UNKNOWN
    return 1
