"""The command line of a test's service, in the descriptor's quoting."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def line(command: Sequence[str | os.PathLike[str]], path: str | None) -> str:
    """The value of ``Exec``.

    Args:
        command: the program and its arguments.
        path: of the services, for a program without a directory.

    Raises:
        TypeError, ValueError: ``command`` is not a list of arguments.
        FileNotFoundError: there is no such program.
    """
    if isinstance(command, str | bytes | os.PathLike):
        words = command.split() if isinstance(command, str) else [command]
        raise TypeError(f"exec is a list, one word each: {words!r}, not {command!r}")
    for number, each in enumerate(command):
        if not isinstance(each, str | os.PathLike):
            raise TypeError(f"exec[{number}] is {each!r}, not a string or a path")
    if not command:
        raise ValueError("exec is empty: it begins with the program")
    program, *arguments = (os.fspath(each) for each in command)
    # A descriptor uses the shell's quoting; its key file adds escapes of its own below that.
    found = shlex.join([_program(program, path), *arguments])
    return found.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _program(program: str, path: str | None) -> str:
    if program in ("python", "python3"):
        return sys.executable
    if os.sep in program:
        return os.path.abspath(program)
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(f"no program {program!r} in PATH")
    return found
