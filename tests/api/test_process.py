"""What the object of a process says that is not in its record."""

from __future__ import annotations

import os
import subprocess

from broker.api.process import ProcessObject
from broker.core.attribution import Attribution, Origin
from broker.core.clock import NEVER
from broker.core.processes import Processes


def test_the_command_is_what_is_executed_now_or_was_at_the_end() -> None:
    command = ["sh", "-c", "read line; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        record = Processes().add(
            process.pid,
            ppid=os.getpid(),
            service="",
            activation=1,
            origin=Origin.SPAWNED,
            attribution=Attribution.SPAWNED,
            started=NEVER,
            command=("as it was started",),
        )
        described = ProcessObject(record)
        # The kernel has no arguments for it yet when Popen hears that it executes them.
        while described.get("Command") == ["as it was started"]:
            pass
        assert described.get("Command") == command
        process.stdin.write(b"\n")
        process.stdin.flush()
        while described.get("Command") != ["cat"]:
            pass
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # A zombie: there is no command line, and nobody has heard of its end.
        assert described.get("Command") == ["cat"]
