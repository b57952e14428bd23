"""What a session is started with."""

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
