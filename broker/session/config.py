"""The configuration of a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.engine.base import Rules
from broker.services.limits import Limits, Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.catalog.catalog import Directory
    from broker.engine.listen import Listener


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of a session.

    Attributes:
        directories: the directories of descriptors, by precedence.
        environ: the initial activation environment.
        output: the destination of services' output.
        rules: the part of a configuration file that concerns the bus itself.
        background: whether to release our standard streams when the bus is ready.
    """

    listener: Listener
    directories: Sequence[Directory]
    engine: str = "auto"
    limits: Limits = field(default_factory=Limits)
    environ: Mapping[str, str] = field(default_factory=dict)
    output: Output = Output.INHERIT
    rules: Rules = field(default_factory=Rules)
    background: bool = False
