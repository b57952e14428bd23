"""What happened in a soak: outcomes, how long they took, and what was wrong."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from broker.errors import FDO, OWN, Disconnected, RemoteError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# In seconds. Ten times what an activation may take here: the machine may be busy.
ANSWER_BOUND: Final = 30.0
# What a call may be answered with; whatever else is said is a mistake of the broker's.
EXPECTED: Final = {
    FDO + "LimitsExceeded",  # of a machine that others have filled with processes
    FDO + "ServiceUnknown",
    FDO + "NameHasNoOwner",
    FDO + "NoReply",
    FDO + "Spawn.ChildExited",
    FDO + "Spawn.ChildSignaled",
    FDO + "Spawn.ExecFailed",
    FDO + "Spawn.Failed",
    FDO + "TimedOut",
    FDO + "UnknownMethod",
    OWN + "NotRunning",
    OWN + "NoSuchProcess",
    OWN + "StartLimitHit",
}
# Only so many of the same complaint are kept.
KEPT: Final = 5


class Record:
    """What is counted.

    Attributes:
        outcomes: by action, then by "ok" or the error's name.
        seconds: durations of what went well, by action.
        failures: by check, what was wrong; all that were made are there.
    """

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: dict[str, list[str]] = {}

    @property
    def actions(self) -> int:
        """How many actions have ended."""
        return sum(each.total() for each in self.outcomes.values())

    def check(self, name: str, *problems: str) -> None:
        """A check was made; it found these problems."""
        found = self.failures.setdefault(name, [])
        found.extend(problems[: max(0, KEPT - len(found))])

    def sound(self, name: str, what: str, found: object, wanted: object) -> None:
        """Check that two values are the same."""
        self.check(name, *([] if found == wanted else [f"{what}: {found!r}, not {wanted!r}"]))

    @asynccontextmanager
    async def action(self, name: str, about: str = "") -> AsyncIterator[None]:
        """Something that must be answered, with whatever is expected, within the bound."""
        self.check("every call is answered")
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_BOUND):
                yield
        except TimeoutError:
            outcome = "no answer"
            self.check("every call is answered", f"{name} {about} was not")
        except RemoteError as e:
            outcome = e.name.removeprefix(FDO).removeprefix(OWN)
            if e.name not in EXPECTED or "service_start_timeout" in str(e):
                self.check("every call is answered", f"{name} {about} with {e.name}: {e}")
        except Disconnected as e:
            outcome = "disconnected"
            self.check("every call is answered", f"{name} {about}: {e}")
        else:
            outcome = "ok"
            self.seconds[name].append(time.perf_counter() - begin)
        self.outcomes[name][outcome] += 1
