"""Real buses, private to the tests: one dbus-daemon and one dbus-broker for all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from broker.bus import address, interface
from broker.bus.codec import Message
from broker.bus.connection import Connection
from broker.engine.dbus_broker import policy
from tests.bus.peer import PATIENCE, Peer, connected
from tests.bus.serving import MORE, MORE_XML, ROOT, TEST, TEST_XML, More, Served, Test

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
 <type>session</type>
 <listen>{address}</listen>
 <auth>EXTERNAL</auth>
 <policy context="default">
  <allow user="*"/>
  <allow send_destination="*" eavesdrop="true"/>
  <allow eavesdrop="true"/>
  <allow own="*"/>
 </policy>
 <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"""


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """Where sockets go: 108 bytes hold a path, and pytest's own are long."""
    directory = Path(tempfile.mkdtemp(prefix="datb-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def dbus_daemon(short_directory: Path) -> Iterator[str]:
    """The address of a dbus-daemon."""
    configuration = short_directory / "daemon.conf"
    configuration.write_text(CONFIGURATION.format(address=f"unix:path={short_directory}/daemon"))
    with subprocess.Popen(
        ["dbus-daemon", "--nofork", f"--config-file={configuration}", "--print-address=1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def dbus_broker(short_directory: Path) -> Iterator[str]:
    """The address of a dbus-broker, whose controller is a connection to a peer of ours."""
    path = str(short_directory / "broker")
    ours, theirs = socket.socketpair()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening,
        asyncio.Runner() as runner,
    ):
        listening.bind(path)
        listening.listen()
        with (
            theirs,
            subprocess.Popen(
                [
                    "dbus-broker",
                    f"--controller={theirs.fileno()}",
                    f"--machine-id={'0' * 31}1",
                    "--max-bytes=1000000000",
                    "--max-fds=65536",
                    "--max-matches=1000000",
                ],
                pass_fds=[theirs.fileno()],
            ) as process,
        ):
            try:
                theirs.close()
                controller = runner.run(_control(ours, listening))
                yield f"unix:path={path}"
                # Its controller's end is its own.
                runner.run(_close(controller))
            finally:
                process.terminate()


async def _control(ours: socket.socket, listening: socket.socket) -> Connection:
    controller = await Connection.to_peer(ours)
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    message = Message(
        path="/org/bus1/DBus/Broker",
        interface="org.bus1.DBus.Broker",
        member="AddListener",
        signature="ohv",
        # The policy of versions from 32 on, as everywhere that these tests run.
        body=["/org/bus1/DBus/Listener/0", 0, policy(32, os.getuid())],
    )
    controller.expect(controller.send_with_fds(message, [listening.fileno()]), answer.set_result)
    reply = await answer
    assert isinstance(reply, Message), reply
    return controller


async def _close(connection: Connection) -> None:
    connection.close()
    await connection.wait_closed()


@pytest.fixture(params=["dbus_daemon", "dbus_broker"])
def bus(request: pytest.FixtureRequest) -> str:
    """The address of a bus, of either kind."""
    where: str = request.getfixturevalue(request.param)
    return where


@pytest_asyncio.fixture
async def client(bus: str) -> AsyncIterator[Callable[[], Awaitable[Connection]]]:
    """Makes connections to the bus, which end with the test."""
    made: list[Connection] = []

    async def connect() -> Connection:
        made.append(await Connection.to_bus(address.connect(bus)))
        return made[-1]

    yield connect
    for connection in made:
        await _close(connection)


@pytest_asyncio.fixture
async def link() -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection and the peer at its other end."""
    async with connected() as pair:
        yield pair


@pytest.fixture
def specs(tmp_path: Path) -> None:
    """The interfaces, read from their XML as the broker reads its own."""
    for kind, name, text in ((Test, TEST, TEST_XML), (More, MORE, MORE_XML)):
        (tmp_path / f"{name}.xml").write_text(text)
        kind.spec = interface.load(str(tmp_path), name)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    """Objects at the root and below it, and one in between that is only a way."""
    async with connected() as (connection, peer):
        served = Served(connection, peer)
        served.server.add(ROOT, served.test)
        served.server.add(f"{ROOT}/way/one", Test("one"), More())
        served.server.add(f"{ROOT}/way/two", Test("two"))
        yield served
        for gate in served.test.gates.values():
            gate.set()
        async with asyncio.timeout(PATIENCE):
            await served.server.finish()
