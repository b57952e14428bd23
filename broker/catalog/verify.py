"""A linter for descriptors: errors, and surprises for their authors."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.core.printable import printable, quoted
from broker.errors import DescriptorError

from .descriptor import Descriptor, PlaceholderError, read_with_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SUFFIX = ".service"


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or warning; ``line`` from 1, 0 for the whole file.

    ``fatal``: neither we nor the reference use the file.
    """

    path: str
    line: int
    text: str
    fatal: bool

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.text}"


def verify(paths: Sequence[str]) -> Iterator[Finding]:
    """Checks files, and all descriptors in directories; the first directory has precedence."""
    seen: dict[str, str] = {}
    for path in paths:
        if os.path.isdir(path):
            for file in _listing(path):
                if isinstance(file, Finding):
                    yield file
                else:
                    yield from _check(file, seen)
        else:
            yield from _check(path, seen)


def _listing(directory: str) -> Iterable[str | Finding]:
    try:
        names = os.listdir(directory)
    except OSError as e:
        return [Finding(printable(directory), 0, e.strerror or str(e), fatal=True)]
    # The order in which the catalog reads them.
    chosen = sorted((n for n in names if n.endswith(_SUFFIX) and n[0] != "."), key=os.fsencode)
    return [os.path.join(directory, name) for name in chosen]


def _check(path: str, seen: dict[str, str]) -> Iterator[Finding]:
    where = printable(path)
    try:
        descriptor, lines = read_with_lines(path)
    except PlaceholderError:
        return
    except DescriptorError as e:
        yield Finding(e.path, e.line, e.reason, fatal=True)
        return
    for key, text in _regrets(path, descriptor):
        yield Finding(where, lines[key], text, fatal=False)
    name = descriptor.name
    if name in seen:
        text = f"not used: {printable(seen[name])} provides {name} already"
        yield Finding(where, lines["Name"], text, fatal=False)
    else:
        seen[name] = path


def _regrets(path: str, descriptor: Descriptor) -> Iterator[tuple[str, str]]:
    """The warnings about a file that the reference accepts: its key, and the text."""
    expected = descriptor.name + _SUFFIX
    if os.path.basename(path) != expected:
        yield (
            "Name",
            (
                f"the file should be called {expected}: dbus-broker warns of another name, and a "
                "system bus or $XDG_RUNTIME_DIR/dbus-1/services refuses it"
            ),
        )
    if descriptor.argv:
        yield from (("Exec", text) for text in _program(descriptor.argv[0]))
    else:
        yield (
            "SystemdService",
            (
                "there is no Exec: without systemd nothing can start it, and dbus-daemon refuses "
                "the file"
            ),
        )
    if descriptor.user:
        yield "User", f"User={printable(descriptor.user)} has no effect on a session bus"


def _program(program: str) -> Iterator[str]:
    shown = quoted(program)
    if not program.startswith("/"):
        yield (
            f"{shown} is not an absolute path: PATH is not searched, it is looked for from the "
            "bus's own directory"
        )
        return
    try:
        status = os.stat(program)
    except OSError as e:
        yield f"{shown} cannot be executed: {e.strerror}"
        return
    if stat.S_ISDIR(status.st_mode):
        yield f"{shown} is a directory"
    elif not os.access(program, os.X_OK):
        yield f"{shown} cannot be executed: Permission denied"
