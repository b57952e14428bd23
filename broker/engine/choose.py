"""Which message bus is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from broker.errors import EngineMissing

if TYPE_CHECKING:
    from broker.engine.base import Engine

CHOICES: Final = ("auto", "dbus-broker", "dbus-daemon")

_PACKAGES: Final = """\
install one of these packages:
  Debian, Ubuntu: dbus-broker or dbus-daemon
  Fedora:         dbus-broker or dbus-daemon
  Arch:           dbus-broker or dbus
  Alpine:         dbus
  Void:           dbus"""


def choose(name: str) -> tuple[type[Engine], str]:
    """The engine's class and its program's path.

    Raises:
        EngineMissing: it is not installed; the text names the packages.
    """
    wanted = CHOICES[1:] if name == "auto" else (name,)
    for each in wanted:
        program = _find(each)
        if program is not None:
            return _engine(each), program
    raise EngineMissing(f"no message bus found ({' or '.join(wanted)}); {_PACKAGES}")


def _find(program: str) -> str | None:
    # Not by shutil, which is 1 MB of compressors in memory for this one call.
    for directory in os.get_exec_path():
        path = os.path.join(directory, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _engine(name: str) -> type[Engine]:
    # Imported when chosen: one of the two is never needed.
    if name == "dbus-broker":
        from broker.engine.dbus_broker import DBusBroker  # noqa: PLC0415

        return DBusBroker
    from broker.engine.dbus_daemon import DBusDaemon  # noqa: PLC0415

    return DBusDaemon
