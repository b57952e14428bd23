"""Authentication, with servers that do all but let us in."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING

import pytest

from broker.bus.authentication import MAX_AUTH_BYTES
from broker.bus.connection import Connection
from broker.errors import Disconnected, NoReply
from tests.bus import wire
from tests.bus.peer import AUTHENTICATION, GUID, PATIENCE, Log, Peer, connected, open_fds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.asyncio

AGREED = AUTHENTICATION + b"AGREE_UNIX_FD\r\n"


async def _refused(
    script: Callable[[Peer], Awaitable[None]], *, to_bus: bool = False, patience: float = PATIENCE
) -> Exception:
    """What connecting raises to a peer that follows a script, with all sockets closed after it."""
    before = open_fds()
    ours, theirs = socket.socketpair()
    connect = Connection.to_bus if to_bus else Connection.to_peer
    # Half of the connection's own patience: nothing here may need that.
    with theirs:
        peer = Peer(theirs)
        async with asyncio.timeout(PATIENCE / 2):
            connecting = asyncio.create_task(connect(ours, timeout=patience))
            await script(peer)
            with pytest.raises((Disconnected, NoReply)) as caught:
                await connecting
            # The end reaches the peer, not only us.
            await peer.read_end()
    assert ours.fileno() == -1
    assert open_fds() == before
    return caught.value


@pytest.mark.parametrize("length", range(len(AGREED)))
async def test_a_server_that_closes_at_any_point_is_noticed(length: int) -> None:
    """dbus-next spins for ever on the empty reads, and no timeout of the loop can fire."""

    async def script(peer: Peer) -> None:
        await peer.read_lines(b"NEGOTIATE_UNIX_FD")
        await peer.write(AGREED[:length])
        peer.sock.shutdown(socket.SHUT_RDWR)

    assert isinstance(await _refused(script), Disconnected)


async def test_a_server_that_closes_before_it_reads_is_noticed() -> None:
    async def script(peer: Peer) -> None:
        peer.sock.shutdown(socket.SHUT_RDWR)

    assert isinstance(await _refused(script), Disconnected)


async def test_a_server_that_was_gone_already_is_noticed() -> None:
    before = open_fds()
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(Disconnected):
        await Connection.to_peer(ours)
    await asyncio.sleep(0)  # asyncio closes a socket in the turn after the one that decides it
    assert open_fds() == before


async def test_a_server_that_closes_on_hello_is_noticed() -> None:
    async def script(peer: Peer) -> None:
        await peer.authenticate(fds=False)
        assert (await peer.read()).member == "Hello"
        peer.sock.shutdown(socket.SHUT_RDWR)

    assert isinstance(await _refused(script, to_bus=True), Disconnected)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"REJECTED EXTERNAL\r\n", "REJECTED EXTERNAL"),
        (b"DATA\r\nREJECTED EXTERNAL\r\n", "REJECTED EXTERNAL"),
        (b'ERROR "no"\r\n', 'ERROR "no"'),
        (AUTHENTICATION + b"ERROR\r\n", "ERROR"),
        (b"OK " + GUID.encode() + b"\r\n", "OK"),
        (b"DATAOK\r\n", "DATAOK"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n", "HTTP/1.1 400"),
        (b"\xff\xfe\0\r\n", r"\xff\xfe"),
        (b"\r\n", "refused us: ''"),
        (b"x" * 1000 + b"\r\n", "x" * 100),
        (b"x" * (MAX_AUTH_BYTES + 1), "a line without end"),
        (b"DATA\r\nOK " + b"0" * (MAX_AUTH_BYTES + 1), "a line without end"),
    ],
    ids=range(12),
)
async def test_a_refusal_is_told_with_the_servers_words(answer: bytes, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.read_lines(b"NEGOTIATE_UNIX_FD")
        await peer.write(answer)

    refusal = await _refused(script)
    assert isinstance(refusal, Disconnected)
    assert text in str(refusal)
    assert len(str(refusal)) < 500
    assert str(refusal).isprintable()


@pytest.mark.parametrize(
    "answer", [b"", b"DAT", b"DATA\r\n", b"DATA\r\nOK", AUTHENTICATION, AGREED[:-1]]
)
async def test_a_server_that_falls_silent_costs_the_timeout(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.read_lines(b"NEGOTIATE_UNIX_FD")
        await peer.write(answer)

    refusal = await _refused(script, patience=0.05)
    assert isinstance(refusal, NoReply)
    assert "0.05 s" in str(refusal)


async def test_a_bus_that_is_silent_on_hello_costs_the_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.authenticate(fds=False)

    assert isinstance(await _refused(script, to_bus=True, patience=0.05), NoReply)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (wire.error(1, "org.freedesktop.DBus.Error.LimitsExceeded", "too many"), "too many"),
        (wire.error(1, "org.freedesktop.DBus.Error.AccessDenied"), "AccessDenied"),
        (wire.answer(1), "not a message bus"),
        (wire.answer(1, "ss", ["a", "b"]), "not a message bus"),
        (wire.answer(1, "u", [7]), "not a message bus"),
    ],
)
async def test_a_hello_without_a_name_is_a_refusal(answer: bytes, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.authenticate(fds=False)
        assert (await peer.read()).serial == 1
        await peer.write(answer)

    refusal = await _refused(script, to_bus=True)
    assert isinstance(refusal, Disconnected)
    assert text in str(refusal)


async def test_cancelling_an_authentication_closes_the_socket() -> None:
    before = open_fds()
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)
    connecting = asyncio.create_task(Connection.to_peer(ours))
    await peer.read_lines(b"NEGOTIATE_UNIX_FD")
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert await peer.read_end() == b""
    peer.close()
    assert open_fds() == before


async def test_only_a_stream_between_processes_is_taken() -> None:
    before = open_fds()
    with pytest.raises(ValueError, match="Stream Socket"):
        await Connection.to_peer(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    assert open_fds() == before


@pytest.mark.parametrize(
    ("to_bus", "negotiate"), [(False, b"NEGOTIATE_UNIX_FD\r\n"), (True, b"")], ids=["peer", "bus"]
)
async def test_no_identity_is_claimed_and_only_peers_may_send_descriptors(
    to_bus: bool, negotiate: bytes
) -> None:
    """The credentials are the socket's: a uid that we wrote would be wrong in a namespace."""

    async def script(peer: Peer) -> None:
        # One piece, and no more: a proxy takes what is said behind BEGIN for messages.
        opening = await asyncio.get_running_loop().sock_recv(peer.sock, 4096)
        assert opening == b"\0AUTH EXTERNAL\r\nDATA\r\n" + negotiate
        await peer.write(AGREED if negotiate else AUTHENTICATION)
        assert await peer.read_lines(b"BEGIN") == b"BEGIN\r\n"
        peer.sock.shutdown(socket.SHUT_RDWR)

    if to_bus:
        await _refused(script, to_bus=True)
    else:
        ours, theirs = socket.socketpair()
        with theirs:
            connection, _ = await asyncio.gather(Connection.to_peer(ours), script(Peer(theirs)))
            await connection.wait_closed()


async def test_the_answers_may_come_in_any_pieces_with_messages_behind() -> None:
    stream = AGREED + wire.call("/", "org.example.Test", "First", serial=77)
    for cut in range(1, len(stream)):
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        connecting = asyncio.create_task(Connection.to_peer(ours, timeout=PATIENCE))
        await peer.read_lines(b"NEGOTIATE_UNIX_FD")
        await peer.write(stream[:cut])
        # One turn of the loop takes it in; the rest comes as a piece of its own.
        await asyncio.sleep(0)
        await peer.write(stream[cut:])
        connection = await connecting
        assert connection.guid == GUID
        await peer.read_lines(b"BEGIN")
        assert (await peer.read()).reply_serial == 77
        connection.close()
        await connection.wait_closed()
        peer.close()


async def test_what_follows_the_authentication_is_not_lost() -> None:
    async with connected() as (connection, peer):
        log = Log()
        connection.on_message = lambda message: log.append(message.member)
        await peer.write(wire.signal("A") + wire.signal("B"))
        await log.until_length(2)
        assert log == ["A", "B"]


async def test_real_buses_let_us_in(client: Callable[[], Awaitable[Connection]]) -> None:
    one, other = await client(), await client()
    assert re.fullmatch(r":\d+\.\d+", one.unique_name)
    assert one.unique_name != other.unique_name
    assert re.fullmatch("[0-9a-f]{32}", one.guid)
    assert one.guid == other.guid
