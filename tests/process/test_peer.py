"""The process behind a connection, as it was when the bus named it."""

from __future__ import annotations

import dataclasses
import os
import subprocess

from broker.process import procfs
from broker.process.peer import NOBODY, Peer


def test_a_pid_that_came_again_has_not_the_owners_command() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        peer = Peer.seen(process.pid)
        # The kernel may have no arguments for it yet.
        while peer.command() != ("cat",):
            pass
        another = dataclasses.replace(peer, start_ticks=peer.start_ticks - 1)
        assert another.command() == ()
        process.stdin.close()  # type: ignore[union-attr]
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert peer.command() == ("[cat]",)
    assert peer.command() == ()
    assert Peer.seen(process.pid) == Peer(process.pid, 0)
    assert NOBODY.command() == Peer.seen(0).command() == ()
    assert Peer.seen(os.getpid()).command() == procfs.arguments(os.getpid())
