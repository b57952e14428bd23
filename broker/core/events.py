"""The events that a service handles, and the effects that it asks for."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from broker.core.clock import Instant
    from broker.core.exits import Exit, Result
    from broker.errors import DBusError

# Stands for a waiter of an activation: an engine's request, or a call of StartService.
# The core only hands it back.
Token: TypeAlias = Hashable


class OwnerKind(enum.Enum):
    """Where the process that owns the name comes from."""

    OWN = enum.auto()  # the service itself
    OTHER = enum.auto()  # another service of the broker
    FOREIGN = enum.auto()  # outside the broker


class Timer(enum.Enum):
    """The purposes of a service's one timer."""

    ACTIVATION = enum.auto()  # deadline for the name
    HANDOVER = enum.auto()  # the same, once all processes of the activation have exited with 0
    SERVING = enum.auto()  # deadline for the bus to say which processes own other names
    STOP = enum.auto()  # deadline for SIGTERM
    KILL = enum.auto()  # a short pause before the next SIGKILL


# -- events ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """A client wants the name."""

    token: Token


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process that ``Spawn`` asked for exists; ``at`` is when it was started."""

    pid: int
    at: Instant


@dataclass(frozen=True, slots=True)
class SpawnRefused:
    """No process was started: the program or the system prevented it.

    After ``Spawned``: the process exists, could not execute the program, and is about to end.
    """

    error: DBusError
    result: Result


@dataclass(frozen=True, slots=True)
class NameAcquired:
    """A connection took the name; ``pid`` is its process (0: ended already, or not visible).

    ``started`` and ``current`` are as in the process's ``ProcessExited``, which may have
    come first. For an owner that has already gone, ``started`` is when we heard of it.
    """

    owner: str
    pid: int
    kind: OwnerKind
    started: Instant
    current: bool


@dataclass(frozen=True, slots=True)
class NameLost:
    """The name has no owner any more."""


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """A process of the service was reaped; ``current``: it belongs to the newest activation."""

    pid: int
    started: Instant
    exit: Exit
    current: bool


@dataclass(frozen=True, slots=True)
class Emptied:
    """No process of the newest activation is left; ``all_gone``: nor of an older one."""

    all_gone: bool


@dataclass(frozen=True, slots=True)
class OnlyServing:
    """Only the processes that ``SignalAll`` spared are left."""


@dataclass(frozen=True, slots=True)
class OwnerConfirmed:
    """The bus answered ``ConfirmOwner``; its earlier messages have been handled."""

    owner: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The timer has run out."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A client wants the service stopped."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """A client has sent a signal to its processes through us."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The session ends: no more starts, and no death is a failure."""


@dataclass(frozen=True, slots=True)
class ResetFailed:
    """Forget failure and start limit."""


Event: TypeAlias = (
    Requested
    | Spawned
    | SpawnRefused
    | NameAcquired
    | NameLost
    | ProcessExited
    | Emptied
    | OnlyServing
    | OwnerConfirmed
    | TimerFired
    | StopRequested
    | Signalled
    | Closing
    | ResetFailed
)

# -- effects ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the program; answer with ``Spawned`` or ``SpawnRefused`` before anything else.

    ``SpawnRefused`` may also come later, if the program's file system is slow to answer.
    """


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Start the service's timer; it was not running."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Stop the service's timer, if it runs."""


@dataclass(frozen=True, slots=True)
class ConfirmOwner:
    """Ask the bus who owns the name; answer with ``OwnerConfirmed``."""


@dataclass(frozen=True, slots=True)
class CompleteActivation:
    """The name is owned: tell the waiters.

    If not ``sure``, its owner has gone, perhaps before the engine asked for it. Then the
    engine's requests are dismissed as well, since no owner may be left to answer them.
    """

    tokens: tuple[Token, ...]
    sure: bool = True


@dataclass(frozen=True, slots=True)
class FailActivation:
    """The activation failed: tell the waiters and everybody else why."""

    tokens: tuple[Token, ...]
    error: DBusError


@dataclass(frozen=True, slots=True)
class SignalAll:
    """Send a signal to every process of the service.

    If ``sparing``, except the processes that own another name, as the bus has said; and
    ``OnlyServing`` follows as soon as only those are left.
    """

    signal: int
    sparing: bool = False


@dataclass(frozen=True, slots=True)
class CompleteStop:
    """No process of the service is left: tell the callers that wait for its end."""


Effect: TypeAlias = (
    Spawn
    | ArmTimer
    | CancelTimer
    | ConfirmOwner
    | CompleteActivation
    | FailActivation
    | SignalAll
    | CompleteStop
)
