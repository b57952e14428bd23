"""The times, counts and outputs that apply to a session's services."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Output(enum.StrEnum):
    """The destination of services' standard output and error."""

    INHERIT = "inherit"  # the same as ours
    CAPTURE = "capture"  # to the services' logs
    NULL = "null"  # nowhere


@dataclass(frozen=True, slots=True)
class Limits:
    """The timeouts and counts of a service's life; times in seconds."""

    activation_timeout: float = 25.0
    handover_timeout: float = 5.0
    stop_timeout: float = 5.0
    start_limit_interval: float = 10.0
    start_limit_burst: int = 5
