"""Large input is cut where it comes in, and no message is too large for the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from broker.bus.codec import Message
from broker.core.printable import LONGEST
from broker.errors import FDO, RemoteError
from broker.process import procfs
from tests.aio_client import BUS_NAME, MANAGER, ROOT, SERVICE, Client

if TYPE_CHECKING:
    from tests.integration.buses import Place

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("user", ["self"], indirect=True)]

NAME: Final = "org.activation.Test.One"
# Together more than the protocol's 128 MiB, and ten times what they may cost the broker.
ORPHANS: Final = 80
ARGUMENTS: Final = 15  # of 128 KiB less a byte: execve takes no longer ones
BOUND: Final = 16 << 20

# They are stopped: whoever reads is to find them as they were started.
LEAVE: Final = f"""\
#!/usr/bin/python3
import os, sys

argv = ["sh", "-c", "kill -STOP $$", *["x" * 131071] * {ARGUMENTS}]
parent = os.fork()
if not parent:
    for _ in range({ORPHANS}):
        os.posix_spawn("/bin/sh", argv, {{}})
    os._exit(0)
os.waitpid(parent, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def length(words: list[str]) -> int:
    """Of a command line as /proc has it, in bytes."""
    return len("\0".join(words).encode())


async def test_command_lines_of_megabytes_cost_a_page_each(place: Place) -> None:
    place.add(NAME, f"{place.write('leave', LEAVE)} {place.service} {NAME}")
    async with place.serve("--stop-timeout=2") as bus:
        before = procfs.peak_memory(bus.pid)
        await bus.echo(NAME)
        snapshot = await bus.client.snapshot()
        lengths = [length(each["Command"]) for each in snapshot.processes.values()]
        assert lengths.count(LONGEST) == ORPHANS
        assert max(lengths) == LONGEST
        (leaks,) = await bus.client.call("ListLeaks")
        assert [length(leak[3]) for leak in leaks] == [LONGEST] * ORPHANS
        await bus.client.call("StopService", "s", NAME)
        told = 0
        while told < ORPHANS:
            *_, details = await bus.signal("ProcessExited", service=NAME)
            assert len(details["Command"].encode()) <= LONGEST
            told += len(details["Command"].encode()) == LONGEST
        assert procfs.peak_memory(bus.pid) < before + BOUND


async def test_an_exec_of_many_words_is_run_whole_and_shown_in_part(place: Place) -> None:
    words = " ".join(f"word{number}" for number in range(9_000))
    place.add(NAME, f"{place.service} {NAME} {words}")
    missing = f"{NAME}.Missing"
    place.add(missing, f"/{'x' * 100_000}")
    async with place.serve() as bus:
        await bus.echo(NAME)
        snapshot = await bus.client.snapshot()
        (service,) = [each for each in snapshot.services.values() if each["Name"] == NAME]
        (process,) = [each for each in snapshot.processes.values() if each["ServiceName"] == NAME]
        for command in (service["ExecStart"], process["Command"]):
            assert length(command) == LONGEST
            assert command[1:4] == [NAME, "word0", "word1"]
        assert len(procfs.read(f"/proc/{process['PID']}/cmdline") or b"") > len(words)
        with pytest.raises(RemoteError) as caught:
            await bus.client.call("StartService", "s", missing)
        assert caught.value.name == f"{FDO}Spawn.ExecFailed"
        assert LONGEST - 100 < len(str(caught.value).encode()) <= LONGEST


SMALL_BUS: Final = """\
<busconfig><limit name="max_message_size">{limit}</limit></busconfig>
"""


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
async def test_what_the_bus_does_not_take_is_not_sent(place: Place) -> None:
    """dbus-daemon hangs up on a client that sends more than its limit."""
    place.write("bus.conf", SMALL_BUS.format(limit=8192))
    async with place.serve(f"--config-file={place.path}/bus.conf") as bus:
        # In an array each word takes 8 bytes.
        place.add(NAME, f"{place.service} {NAME} {'x ' * 5_000}")
        place.add(f"{NAME}.Short")
        await bus.client.call("Reload")
        path = await bus.path_of(NAME)
        for call in (bus.client.snapshot(), bus.client.get(path, SERVICE, "ExecStart")):
            with pytest.raises(RemoteError, match="over the bus's limit") as caught:
                await call
            assert caught.value.name == f"{FDO}LimitsExceeded"
        # The one that was too large is not announced, the other one is.
        assert (await bus.signal("InterfacesAdded"))[0] == f"{path}_2eShort"
        assert await bus.client.get(ROOT, MANAGER, "NSignalsDropped") == 1
        assert await bus.echo(NAME) == "hello"
        assert bus.status is None


@pytest.mark.parametrize("engine", ["dbus-daemon"], indirect=True)
async def test_a_bus_that_takes_too_little_is_refused(place: Place) -> None:
    place.write("bus.conf", SMALL_BUS.format(limit=1000))
    done = place.run("true", options=[f"--config-file={place.path}/bus.conf"])
    assert done.returncode == 127
    assert done.stderr == (
        "dbus-activator: max_message_size: 1000 bytes are too few for our own messages, which "
        "need 8192\n"
    )


async def test_calls_of_megabytes_are_refused_unread(place: Place) -> None:
    """Nothing of them is kept, whatever they are for."""
    text = "x" * 20_000_000
    place.add(NAME)
    async with place.serve() as bus, await Client.connect(bus.address) as client:
        before = procfs.peak_memory(bus.pid)
        (ours,) = await client.bus.call_bus("GetNameOwner", "s", [BUS_NAME])
        for member in ("GetService", "NoSuchMethod"):
            with pytest.raises(RemoteError, match="is not read") as caught:
                await client.bus.call(ours, ROOT, MANAGER, member, "s", [text])
            assert caught.value.name == f"{FDO}LimitsExceeded"
        path = f"/{text}"
        client.bus.send(Message(destination=ours, path=path, interface=MANAGER, member="Reload"))
        assert await bus.echo(NAME) == "hello"
        await client.call("ListServices")
        assert procfs.peak_memory(bus.pid) < before + BOUND
