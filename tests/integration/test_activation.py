"""A message to an activatable name starts its service, or fails with the reason."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from broker.errors import RemoteError
from broker.process import procfs
from tests.aio_client import PROCESS
from tests.integration.buses import open_fifo

if TYPE_CHECKING:
    from tests.integration.buses import Place

pytestmark = pytest.mark.asyncio

NAME = "org.activation.Test.One"
SPAWN = "org.freedesktop.DBus.Error.Spawn."


async def test_a_call_is_answered_and_the_service_is_the_brokers_child(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        answer = place.user.run(
            [
                "busctl",
                f"--address={bus.address}",
                "call",
                NAME,
                "/",
                "org.activation.Test",
                "Echo",
                "s",
                "hello",
            ]
        )
        assert answer.stdout == 's "hello"\n'
        await bus.state(NAME, "running")
        active, sub, pid = await bus.get(NAME, "ActiveState", "SubState", "MainPID")
        assert (active, sub) == ("active", "running")
        stat = procfs.stat(pid)
        assert stat is not None
        assert stat.ppid == bus.pid


async def test_a_daemon_stays_under_the_broker(place: Place) -> None:
    place.add(NAME, f"{place.service} -d {NAME}")
    async with place.serve() as bus:
        assert await bus.echo(NAME) == "hello"
        pid = await bus.get(NAME, "MainPID")
        stat = procfs.stat(pid)
        assert stat is not None
        assert stat.ppid == bus.pid
        (path,) = await bus.client.call("GetProcess", "u", pid)
        assert await bus.client.get(path, PROCESS, "Origin") == "adopted"
        assert await bus.client.get(path, PROCESS, "Attribution") in ("cgroup", "tag")
        assert await bus.client.get(path, PROCESS, "ServiceName") == NAME
        (by_pid,) = await bus.client.call("GetServiceByPID", "u", pid)
        assert by_pid == await bus.path_of(NAME)


async def test_a_daemon_that_dies_before_its_name_is_reported_at_once(place: Place) -> None:
    fifo = place.fifo("gate")
    place.add(NAME, f"{place.service} -d -w {fifo} -x 9 {NAME}")
    async with place.serve() as bus:
        call = asyncio.create_task(bus.echo(NAME))
        # Opening returns when the daemon waits, closing lets it go.
        gate = await open_fifo(fifo, "wb")
        gate.close()
        began = time.monotonic()
        with pytest.raises(RemoteError) as caught:
            await call
        assert time.monotonic() - began < 0.5
        if place.engine == "dbus-daemon":
            assert caught.value.name == f"{SPAWN}ChildExited"
            assert "status 9" in str(caught.value)
        failed = await bus.signal("ActivationFailed")
        assert failed[:2] == [NAME, f"{SPAWN}ChildExited"]
        properties = ("Result", "ExecMainCode", "ExecMainStatus", "ActiveState")
        assert await bus.get(NAME, *properties) == ("exit-code", 1, 9, "failed")


async def test_an_exit_before_the_name_is_the_callers_error(place: Place) -> None:
    place.add(NAME, f"{place.service} -x 3 {NAME}")
    async with place.serve() as bus:
        for attempt in (1, 2):
            with pytest.raises(RemoteError) as caught:
                await bus.echo(NAME)
            if place.engine == "dbus-daemon":
                assert caught.value.name == f"{SPAWN}ChildExited"
                assert "status 3" in str(caught.value)
            else:
                assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
            name, error, text, details = await bus.signal("ActivationFailed")
            assert (name, error) == (NAME, f"{SPAWN}ChildExited")
            assert "status 3" in text
            assert (details["Result"], details["ExecMainStatus"]) == ("exit-code", 3)
            properties = ("Result", "ExecMainCode", "ExecMainStatus", "NActivations", "NFailures")
            assert await bus.get(NAME, *properties) == ("exit-code", 1, 3, attempt, attempt)


async def test_a_signal_before_the_name_is_the_callers_error(place: Place) -> None:
    place.add(NAME, f"{place.service} -k 11 {NAME}")
    async with place.serve() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NAME)
        assert caught.value.name == f"{SPAWN}ChildSignaled"
        assert "signal 11" in str(caught.value)
        code, status = await bus.get(NAME, "ExecMainCode", "ExecMainStatus")
        assert code in (2, 3)
        assert status == 11


async def test_an_exit_with_0_without_the_name_can_fail_at_once(place: Place) -> None:
    place.add(NAME, f"{place.service} -x 0 {NAME}")
    async with place.serve("--handover-timeout=0") as bus:
        with pytest.raises(RemoteError):
            await bus.echo(NAME)
        assert await bus.get(NAME, "Result") == "protocol"


async def test_a_service_that_never_takes_its_name_times_out_and_is_ended(place: Place) -> None:
    place.add(NAME, "/bin/sleep 1000")
    async with place.serve("--activation-timeout=0.3") as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.echo(NAME)
        if place.engine == "dbus-daemon":
            assert caught.value.name == "org.freedesktop.DBus.Error.TimedOut"
        failed = await bus.signal("ActivationFailed")
        assert failed[1] == "org.freedesktop.DBus.Error.TimedOut"
        await bus.state(NAME, "failed")
        assert await bus.get(NAME, "Result", "PIDs", "ExecMainStatus") == ("timeout", [], 15)


async def test_a_missing_program_is_an_exec_failure(place: Place) -> None:
    place.add(NAME, "/nonexistent/program")
    async with place.serve() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NAME)
        assert caught.value.name == f"{SPAWN}ExecFailed"
        assert "/nonexistent/program: No such file or directory" in str(caught.value)
        with pytest.raises(RemoteError) as plain:
            await bus.echo(NAME)
        if place.engine == "dbus-daemon":
            assert plain.value.name == f"{SPAWN}ExecFailed"
        assert await bus.get(NAME, "Result", "MainPID") == ("exec-failed", 0)


async def test_a_descriptor_for_systemd_alone_is_listed_and_refused(place: Place) -> None:
    place.write(
        f"services/{NAME}.service", f"[D-BUS Service]\nName={NAME}\nSystemdService=one.service\n"
    )
    async with place.serve() as bus:
        (names,) = await bus.client.bus.call_bus("ListActivatableNames")
        assert NAME in names
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NAME)
        assert caught.value.name == f"{SPAWN}FileInvalid"
        assert "SystemdService" in str(caught.value)


async def test_start_service_by_name_and_no_auto_start(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.client.bus.call(
                NAME, "/", "org.activation.Test", "Echo", "s", ["x"], auto_start=False
            )
        assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
        assert await bus.get(NAME, "NActivations") == 0
        assert await bus.client.bus.call_bus("StartServiceByName", "su", [NAME, 0]) == [1]
        assert await bus.client.bus.call_bus("StartServiceByName", "su", [NAME, 0]) == [2]
        assert await bus.get(NAME, "NActivations") == 1


async def test_a_name_taken_by_a_stranger_is_external(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.client.bus.call_bus("RequestName", "su", [NAME, 0])
        await bus.state(NAME, "external")
        owner = bus.client.bus.unique_name
        assert await bus.get(NAME, "ActiveState", "Owner", "MainPID") == ("active", owner, 0)
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StopService", "s", NAME)
        assert caught.value.name == "org.activation.Broker1.Error.NotRunning"
        await bus.client.bus.call_bus("ReleaseName", "s", [NAME])
        await bus.state(NAME, "dead")
        assert await bus.echo(NAME) == "hello"


async def test_a_name_that_is_given_up_lingers_and_is_started_anew(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        first = await bus.get(NAME, "MainPID")
        await bus.call(NAME, "Release")
        await bus.state(NAME, "lingering")
        assert await bus.echo(NAME) == "hello"
        second, pids = await bus.get(NAME, "MainPID", "PIDs")
        assert second != first
        assert sorted(pids) == sorted([first, second])


async def test_an_idle_service_that_exits_has_not_failed(place: Place) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        for _ in range(8):
            await bus.echo(NAME)
            with pytest.raises(RemoteError):
                await bus.call(NAME, "Exit", "i", 0)
            await bus.state(NAME, "dead")
        assert await bus.get(NAME, "Result", "NActivations", "NFailures") == ("success", 8, 0)


async def test_too_many_failures_close_the_gate(place: Place) -> None:
    place.add(NAME, f"{place.service} -x 1 {NAME}")
    async with place.serve() as bus:
        for _ in range(5):
            with pytest.raises(RemoteError):
                await bus.echo(NAME)
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", NAME)
        assert caught.value.name == "org.activation.Broker1.Error.StartLimitHit"
        assert await bus.get(NAME, "Result", "NActivations") == ("start-limit-hit", 5)
        await bus.client.call("ResetFailed", "s", NAME)
        assert await bus.get(NAME, "ActiveState", "Result") == ("inactive", "success")
        with pytest.raises(RemoteError) as again:
            await bus.client.call("StartService", "s", NAME)
        assert again.value.name == f"{SPAWN}ChildExited"


async def test_a_helper_left_behind_does_not_hold_up_the_error(place: Place) -> None:
    place.add(NAME, f"{place.service} -l -x 4 {NAME}")
    async with place.serve() as bus:
        with pytest.raises(RemoteError):
            await bus.echo(NAME)
        # What a failed activation leaves running is ended.
        await bus.state(NAME, "failed")
        assert await bus.get(NAME, "Result", "ExecMainStatus", "PIDs") == ("exit-code", 4, [])


async def test_a_name_that_was_taken_while_its_descriptor_was_away_is_external(
    place: Place,
) -> None:
    place.add(NAME)
    async with place.serve() as bus:
        await bus.echo(NAME)
        (place.services / f"{NAME}.service").unlink()
        await bus.client.call("Reload")
        await bus.client.call("StopService", "s", NAME)  # only now it is forgotten
        await bus.client.bus.call_bus("RequestName", "su", [NAME, 0])
        place.add(NAME)
        await bus.client.call("Reload")
        await bus.state(NAME, "external")
        assert await bus.get(NAME, "Owner") == bus.client.bus.unique_name
