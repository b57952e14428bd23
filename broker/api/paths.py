"""Names and object paths of the interface."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from broker.bus import interface

if TYPE_CHECKING:
    from broker.core.processes import Process

BUS_NAME: Final = "org.activation.Broker1"
ROOT: Final = "/org/activation/Broker1"

_XML: Final = os.path.dirname(__file__)
MANAGER: Final = interface.load(_XML, f"{BUS_NAME}.Manager")
SERVICE: Final = interface.load(_XML, f"{BUS_NAME}.Service")
PROCESS: Final = interface.load(_XML, f"{BUS_NAME}.Process")

_NO_PATH: Final = re.compile(rb"[^A-Za-z0-9]")


def of_service(name: str) -> str:
    """The path of a service: bytes that are invalid in a path become ``_xx``, as in systemd."""
    escaped = _NO_PATH.sub(lambda found: b"_%02x" % ord(found[0]), name.encode())
    return f"{ROOT}/service/{escaped.decode()}"


def of_process(process: Process) -> str:
    """The path of a process."""
    return f"{ROOT}/process/{process.serial}"
