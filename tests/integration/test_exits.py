"""The end of a process is reported exactly, for every status and every signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from tests.aio_client import PROCESS
from tests.integration.pairs import on_one

if TYPE_CHECKING:
    from tests.integration.buses import Bus, Place

pytestmark = [pytest.mark.asyncio, pytest.mark.square]

NAME = "org.activation.Test.Daemon"

# SIGKILL's and SIGSTOP's dispositions cannot be set; stopping and ignored
# signals end nothing; 32 and 33 belong to the C library.
DEADLY = sorted(
    signal.valid_signals()
    - {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)


async def end(bus: Bus, member: str, number: int) -> None:
    """Start the daemon anew and let it end; check all that is said about it."""
    await bus.echo(NAME)
    pid = await bus.get(NAME, "MainPID")
    with pytest.raises(RemoteError):
        await bus.call(NAME, member, "i", number)
    codes = (1,) if member == "Exit" else (2, 3)
    while True:
        path, service, ended, code, status, details = await bus.signal("ProcessExited")
        if ended == pid:
            break
    assert (service, status, details["Origin"]) == (NAME, number, "adopted")
    assert code in codes
    assert details["Attribution"] in ("cgroup", "tag")
    assert await bus.client.get(path, PROCESS, "ExitCode") == code
    assert await bus.client.get(path, PROCESS, "ExitStatus") == number
    assert await bus.client.get(path, PROCESS, "State") == "exited"
    await bus.state(NAME, "dead", "failed")
    main = ("ExecMainPID", "ExecMainCode", "ExecMainStatus", "MainPID")
    assert await bus.get(NAME, *main) == (pid, code, number, 0)
    clean = number == 0 if member == "Exit" else number in (1, 2, 13, 15)
    word = "exit-code" if member == "Exit" else "signal" if code == 2 else "core-dump"
    assert await bus.get(NAME, "Result") == ("success" if clean else word)
    await bus.client.call("ResetFailed", "s", NAME)


@on_one()
async def test_every_exit_status(place: Place) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    async with place.serve() as bus:
        for status in range(256):
            await end(bus, "Exit", status)


@on_one("dbus-daemon")
async def test_every_signal(place: Place) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    async with place.serve() as bus:
        for number in DEADLY:
            await end(bus, "Raise", number)
