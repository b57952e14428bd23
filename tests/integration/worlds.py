"""Worlds that lack something: the command of a place, started in one of them; and what is left.

A wrapper becomes the command, so that its process is the one that the tests know.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.process import procfs
from tests.integration import refusing
from tests.integration.buses import Installation

if TYPE_CHECKING:
    from tests.integration.buses import Place


def wrap(place: Place, *lines: str, before: str = "", closing: str = "") -> None:
    """Have these lines of the shell run before the command, as its user.

    Args:
        before: a program that executes it.
        closing: redirections for the command itself.
    """
    command = shlex.quote(str(place.user.command))
    script = "\n".join(["#!/bin/bash", *lines, f'exec {before} {command} "$@" {closing}', ""])
    place.user = Installation(place.write("wrapper", script), place.user.uid)


def wrap_in_mounts(place: Place, *lines: str) -> None:
    """Have these lines run before the command, as root in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    command = [str(place.user.command)]
    if place.user.uid is not None:
        uid = str(place.user.uid)
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command]
    inside = place.write(
        "inside", "\n".join(["#!/bin/sh -e", *lines, f'exec {shlex.join(command)} "$@"', ""])
    )
    # Neither unshare nor setpriv forks.
    script = f'#!/bin/sh\nexec unshare --mount {shlex.quote(str(inside))} "$@"\n'
    place.user = Installation(place.write("wrapper", script))


def wrap_in_refusal(place: Place, number: int, errno: int, *, first: int | None = None) -> None:
    """Have the kernel refuse a system call to the command and all that it starts.

    Args:
        number: of the call.
        errno: what it gives.
        first: the first argument of the calls that are refused; all of them for None.
    """
    # A copy, since the user may not be able to read ours.
    program = place.write("refusing", Path(refusing.__file__).read_bytes())
    which = str(number) if first is None else f"{number}:{first}"
    wrap(place, before=f"{program} {which} {errno}")


def none_left(place: Place, *kept: str) -> None:
    """Nothing is in the place but its services, and what the test put there."""
    assert {each.name for each in place.path.iterdir()} - {"services", *kept} == set()


def has_signal(pid: int, mask: str, number: int) -> bool:
    """Whether a mask of /proc/PID/status (SigBlk, ShdPnd …) has a signal; an ended one has none."""
    return bool(int(field(pid, mask) or "0", 16) >> number - 1 & 1)


def field(pid: int, name: str) -> str:
    """A field of /proc/PID/status; empty if the process has ended."""
    for line in (procfs.read(f"/proc/{pid}/status") or b"").decode().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""
