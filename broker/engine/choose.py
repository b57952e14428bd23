"""Chooses the message bus to start."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from broker.engine.base import ENGINE_MARK
from broker.errors import BadConfiguration, EngineMissing
from broker.process import local

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


def choose(name: str, restricts: str = "") -> tuple[type[Engine], str]:
    """The engine's class and its program's path.

    Args:
        restricts: FILE:LINE of a rule that only dbus-daemon can apply; empty for none.

    Raises:
        EngineMissing: it is not installed; the text names the packages.
        BadConfiguration: it cannot apply the rule.
    """
    found, program = locate(name, restricts)
    return _engine(found), program


def locate(name: str, restricts: str = "") -> tuple[str, str]:
    """The engine's own name and its program's path; arguments and errors as in ``choose``."""
    if ENGINE_MARK in os.environ:
        raise EngineMissing(
            "dbus-activator was started as the message bus of dbus-activator: what PATH has "
            "under the name of a message bus leads back to it"
        )
    if restricts and name == "dbus-broker":
        raise BadConfiguration(
            f"{restricts}: dbus-broker cannot apply this rule: use --engine=dbus-daemon, or "
            "--engine=auto where it is installed"
        )
    wanted = CHOICES[1:] if name == "auto" else (name,)
    if restricts:
        wanted = ("dbus-daemon",)
    # Programs on a local disk first: another disk in PATH may not answer.
    for here in (True, False):
        for each in wanted:
            program = _find(each, here=here)
            if program is not None:
                return each, program
    why = f", which the rule in {restricts} needs" if restricts else ""
    raise EngineMissing(f"no message bus found ({' or '.join(wanted)}{why}); {_PACKAGES}")


def _find(program: str, *, here: bool) -> str | None:
    # Not by shutil, which loads 1 MB of compressors for this one call.
    for directory in os.get_exec_path():
        path = os.path.join(directory, program)
        if local.holds(path) is not here:
            continue
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_ours(path):
            return path
    return None


def _is_ours(path: str) -> bool:
    """Whether it is a link to our own program, which may stand in for dbus-daemon in PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "dbus-activator")
    return any(
        os.path.isfile(each) and os.path.samefile(path, each) for each in (sys.argv[0], beside)
    )


def _engine(name: str) -> type[Engine]:
    # Imported when chosen: the other one is never needed.
    if name == "dbus-broker":
        from broker.engine.dbus_broker import DBusBroker  # noqa: PLC0415

        return DBusBroker
    from broker.engine.dbus_daemon import DBusDaemon  # noqa: PLC0415

    return DBusDaemon
