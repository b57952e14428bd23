"""What a session is started with."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.engine.base import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.catalog.catalog import Directory
    from broker.engine.listen import Listener


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


@dataclass(frozen=True, slots=True)
class Config:
    """What a session is started with.

    Attributes:
        directories: where descriptors are, by precedence.
        environ: the activation environment to begin with.
        output: where services' output goes.
        rules: what a configuration file says to the bus itself.
        background: our standard streams will be let go when the bus can be used.
    """

    listener: Listener
    directories: Sequence[Directory]
    engine: str = "auto"
    limits: Limits = field(default_factory=Limits)
    environ: Mapping[str, str] = field(default_factory=dict)
    output: Output = Output.INHERIT
    rules: Rules = field(default_factory=Rules)
    background: bool = False
