"""How a process ended, in waitid's terms, and what that means for its service."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Result(enum.StrEnum):
    """Why a service is not running any more; systemd's words."""

    SUCCESS = "success"
    EXIT_CODE = "exit-code"
    SIGNAL = "signal"
    CORE_DUMP = "core-dump"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    EXEC_FAILED = "exec-failed"
    RESOURCES = "resources"
    START_LIMIT_HIT = "start-limit-hit"


# si_code of SIGCHLD, <asm-generic/siginfo.h>.
CLD_EXITED: Final = 1
CLD_KILLED: Final = 2
CLD_DUMPED: Final = 3

# SIGHUP, SIGINT, SIGPIPE, SIGTERM: how a daemon is told to stop, or learns that
# nobody listens. systemd counts the same four as success (systemd.service(5),
# SuccessExitStatus=); GDBus ends its process with SIGTERM when the bus goes.
CLEAN_SIGNALS: Final = frozenset({1, 2, 13, 15})


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process: ``code`` is si_code, ``status`` exit status or signal number.

    A ``code`` of 0 is the end of a process that was not ours to wait for.
    """

    code: int
    status: int

    @property
    def zero(self) -> bool:
        """Whether it exited with status 0, or its end is not known to be worse."""
        return self.code == 0 or (self.code == CLD_EXITED and self.status == 0)

    @property
    def clean(self) -> bool:
        """Whether a service that had its name ended well this way."""
        return self.zero or (self.code == CLD_KILLED and self.status in CLEAN_SIGNALS)

    @property
    def result(self) -> Result:
        """The Result of a service that failed this way."""
        if self.zero:
            return Result.SUCCESS
        return {
            CLD_EXITED: Result.EXIT_CODE,
            CLD_KILLED: Result.SIGNAL,
            CLD_DUMPED: Result.CORE_DUMP,
        }[self.code]


UNKNOWN_EXIT: Final = Exit(0, 0)
