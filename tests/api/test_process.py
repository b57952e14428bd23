"""What the object of a process says that is not in its record."""

from __future__ import annotations

import os
import subprocess

from broker.api.process import ProcessObject
from broker.core.attribution import Attribution, Origin
from broker.core.clock import NEVER
from broker.core.processes import Processes


def test_the_command_is_what_is_executed_now_or_was_at_the_end() -> None:
    read, write = os.pipe()
    with subprocess.Popen(["sh", "-c", "read line; exec cat"], stdin=read) as process:
        os.close(read)
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
        assert described.get("Command") == ["sh", "-c", "read line; exec cat"]
        os.write(write, b"\n")
        while described.get("Command") != ["cat"]:
            pass
        os.close(write)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # A zombie: there is no command line, and nobody has heard of its end.
        assert described.get("Command") == ["cat"]
