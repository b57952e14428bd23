"""What can happen to a service, and what it asks to be done about it."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from broker.core.clock import Instant
    from broker.core.exits import Exit, Result
    from broker.errors import DBusError

# Who waits for an activation: an engine's request or a caller of StartService.
# The core only hands it back.
Token: TypeAlias = Hashable


class OwnerKind(enum.Enum):
    """Whose process owns the name."""

    OWN = enum.auto()  # of the service itself
    OTHER = enum.auto()  # of another service of the broker
    FOREIGN = enum.auto()  # not the broker's


class Timer(enum.Enum):
    """What a service's one timer is armed for."""

    ACTIVATION = enum.auto()  # the name must be owned by then
    HANDOVER = enum.auto()  # the same, where all processes of the activation have ended well
    SERVING = enum.auto()  # the bus must have said whom a failed activation's processes serve
    STOP = enum.auto()  # SIGTERM must have done by then
    KILL = enum.auto()  # a short while, then SIGKILL once more


# -- events ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """Someone wants the name."""

    token: Token


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process that ``Spawn`` asked for exists; ``at`` is when it was started."""

    pid: int
    at: Instant


@dataclass(frozen=True, slots=True)
class SpawnRefused:
    """There is no process: the program or the system did not let it be.

    After ``Spawned``: there is one, which could not execute the program, and is about to end.
    """

    error: DBusError
    result: Result


@dataclass(frozen=True, slots=True)
class NameAcquired:
    """A connection took the name; ``pid`` is its process (0: gone already, or out of sight).

    ``started`` and ``current`` are as in the process's ``ProcessExited``, which may have
    come first. Of an owner that has gone ``started`` is when we heard of it.
    """

    owner: str
    pid: int
    kind: OwnerKind
    started: Instant
    current: bool


@dataclass(frozen=True, slots=True)
class NameLost:
    """Nobody owns the name any more."""


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
    """All that ``SignalAll`` did not spare has gone."""


@dataclass(frozen=True, slots=True)
class OwnerConfirmed:
    """The bus answered ``ConfirmOwner``; all that it had said before has been handled."""

    owner: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The timer has run out."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The service shall end."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """Somebody has sent its processes a signal through us."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The session ends: nothing is started any more, and no death is a failure."""


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

    ``SpawnRefused`` may also come later, where the program is on a disk that is slow to answer.
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
    """The name is owned: tell those who waited.

    If not ``sure``, its owner has gone, perhaps before the engine asked for it. Then the
    engine's requests are let go as well, so that it does not wait for nobody.
    """

    tokens: tuple[Token, ...]
    sure: bool = True


@dataclass(frozen=True, slots=True)
class FailActivation:
    """The name will not be owned: tell those who waited, and everybody, why."""

    tokens: tuple[Token, ...]
    error: DBusError


@dataclass(frozen=True, slots=True)
class SignalAll:
    """Send a signal to every process of the service.

    If ``sparing``, not to those that the bus said serve somebody by another name; and
    ``OnlyServing`` follows as soon as no others are left.
    """

    signal: int
    sparing: bool = False


@dataclass(frozen=True, slots=True)
class CompleteStop:
    """Nothing of the service runs: tell those who waited for that."""


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
