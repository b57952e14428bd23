"""The readiness protocol of supervisors: ``sd_notify(3)``, and LISTEN_FDS."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from broker.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell our supervisor, if it wants to know; states are such as ``READY=1``.

    One that cannot be told, or does not read, is no reason to end a session.
    """
    where = environ.get("NOTIFY_SOCKET")
    if not where:
        return
    name = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, name)
    except OSError as e:
        log.warning("cannot tell NOTIFY_SOCKET %s that %s: %s", where, state, e.strerror or e)


def passed_descriptor(environ: Mapping[str, str]) -> int | None:
    """The listening socket that our supervisor passed; None if it passed none to us.

    Raises:
        BadConfiguration: it passed several, or the variables make no sense.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.get("LISTEN_FDS", "0")
    if not count.isdigit():
        raise BadConfiguration(f"LISTEN_FDS is no number: {count!r}")
    if int(count) > 1:
        raise BadConfiguration(f"LISTEN_FDS={count}: a bus listens on one socket")
    return FIRST_FD if int(count) == 1 else None
