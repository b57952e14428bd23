"""The exit of a process, in waitid's terms, and its meaning for the service."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Result(enum.StrEnum):
    """Why a service no longer runs, in systemd's words."""

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

# SIGHUP, SIGINT, SIGPIPE, SIGTERM: they tell a daemon to stop, or that its reader
# has gone. systemd counts the same four as success (systemd.service(5),
# SuccessExitStatus=); GDBus ends its process with SIGTERM when the bus goes.
CLEAN_SIGNALS: Final = frozenset({1, 2, 13, 15})


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process: ``code`` is si_code, ``status`` exit status or signal number.

    A ``code`` of 0 stands for the end of a process that was not our child.
    """

    code: int
    status: int

    @property
    def zero(self) -> bool:
        """Whether it exited with status 0, or its exit is unknown."""
        return self.code == 0 or (self.code == CLD_EXITED and self.status == 0)

    @property
    def clean(self) -> bool:
        """Whether this is a clean exit for a service that had its name."""
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
