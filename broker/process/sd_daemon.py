"""The readiness protocol of supervisors: ``sd_notify(3)``, and LISTEN_FDS."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from broker.core.digits import decimal
from broker.core.printable import printable, quoted
from broker.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_INT_MAX: Final = 2**31 - 1


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell our supervisor a state such as ``READY=1``, if it wants to know.

    A supervisor that is unreachable, or does not read, is no reason to end a session.
    """
    where = environ.get("NOTIFY_SOCKET")
    if not where:
        return
    name = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, name)
    except OSError as e:
        shown, why = printable(where), e.strerror or e
        log.warning("cannot tell NOTIFY_SOCKET %s that %s: %s", shown, state, why)


def passed_descriptor(environ: Mapping[str, str]) -> int | None:
    """The listening socket that our supervisor passed; None if it passed none to us.

    Raises:
        BadConfiguration: it passed several, or the variables make no sense.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.get("LISTEN_FDS", "0")
    number = decimal(count, _INT_MAX)
    if number is None:
        raise BadConfiguration(f"LISTEN_FDS is not a number: {quoted(count)}")
    if number > 1:
        raise BadConfiguration(f"LISTEN_FDS={number}: a bus listens on one socket")
    return FIRST_FD if number else None
