"""What the services of a session are held to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Output(enum.StrEnum):
    """Where services' standard output and error go."""

    INHERIT = "inherit"  # where ours go
    CAPTURE = "capture"  # to the services' logs
    NULL = "null"  # nowhere


@dataclass(frozen=True, slots=True)
class Limits:
    """The times and counts that a service's life is held to; times in seconds."""

    activation_timeout: float = 25.0
    handover_timeout: float = 5.0
    stop_timeout: float = 5.0
    start_limit_interval: float = 10.0
    start_limit_burst: int = 5
