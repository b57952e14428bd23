"""Calls without an event loop, on both buses and against peers that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from broker.bus.blocking import BlockingConnection
from broker.bus.driver import DRIVER
from broker.errors import Disconnected, InvalidArgs, NoReply, RemoteError
from tests.bus import wire
from tests.bus.peer import AUTHENTICATION, open_fds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELLO = wire.answer(1, "s", [":1.1"])


@contextmanager
def served(directory: Path, serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that does as a function says with its one client."""
    path = directory / "peer"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def accept() -> None:
            client, _ = listening.accept()
            with client:
                serve(client)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"unix:path={path}"
        finally:
            thread.join()
            path.unlink()


def until(client: socket.socket, last: bytes) -> bytes:
    """What a client sends up to some bytes."""
    data = b""
    while last not in data:
        data += client.recv(4096)
    return data


def test_a_call_is_answered(bus: str) -> None:
    before = open_fds()
    with BlockingConnection.connect(bus) as connection:
        assert connection.unique_name.startswith(":")
        (owner,) = connection.call_bus("GetNameOwner", "s", connection.unique_name)
        assert owner == connection.unique_name
        (names,) = connection.call_bus("ListNames")
        assert {DRIVER, owner} <= set(names)
    assert open_fds() == before


def test_calls_wait_for_their_own_answers(bus: str) -> None:
    with BlockingConnection.connect(bus) as connection:
        arguments = (DRIVER, "/org/freedesktop/DBus", DRIVER, "NameHasOwner", "s")
        first = connection.send(*arguments, DRIVER)
        second = connection.send(*arguments, "org.example.Nobody")
        assert connection.reply(second) == [False]
        assert connection.reply(first) == [True]


def test_an_error_is_the_answers(bus: str) -> None:
    with BlockingConnection.connect(bus) as connection:
        with pytest.raises(RemoteError, match="name") as caught:
            connection.call_bus("GetNameOwner", "s", "org.example.Nobody")
        error = caught.value
        assert error.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
        assert error.sender == DRIVER


def test_signals_come_in_their_order(bus: str) -> None:
    with BlockingConnection.connect(bus) as ours, BlockingConnection.connect(bus) as other:
        rule = f"type='signal',member='NameOwnerChanged',arg0='{other.unique_name}'"
        ours.call_bus("AddMatch", "s", rule)
        names = [f"org.example.N{number}" for number in range(50)]
        ours.call_bus("AddMatch", "s", "type='signal',arg0namespace='org.example'")
        for name in names:
            other.call_bus("RequestName", "su", name, 0)
        other.close()
        found: list[str] = []
        while other.unique_name not in found:
            signal = ours.signal(time.monotonic() + 10)
            assert signal is not None, found
            if signal.member == "NameOwnerChanged" and not signal.body[1]:
                found.append(signal.body[0])
            elif signal.member == "NameOwnerChanged" and signal.body[0] == other.unique_name:
                found.append(other.unique_name)
        assert found == [*names, other.unique_name]


def test_a_method_call_to_us_is_refused_and_not_left_waiting(bus: str) -> None:
    with BlockingConnection.connect(bus) as ours, BlockingConnection.connect(bus) as caller:
        serial = caller.send(ours.unique_name, "/", "org.example.Any", "Any")
        # Whatever waits takes what comes: the answer to this comes behind the call.
        ours.call_bus("GetId")
        with pytest.raises(RemoteError, match="serves no objects"):
            caller.reply(serial, 10)


def test_nobody_listens(tmp_path: Path) -> None:
    before = open_fds()
    with pytest.raises(Disconnected, match="No such file"):
        BlockingConnection.connect(f"unix:path={tmp_path}/none")
    with pytest.raises(InvalidArgs):
        BlockingConnection.connect("nonsense")
    assert open_fds() == before


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"REJECTED EXTERNAL\r\nREJECTED\r\n", "REJECTED"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n", "HTTP"),
        (b"", "closed|reset"),
        (b"x" * 10_000, "without end"),
        (b"\x1b[31m\xff\r\n\r\n", r"\\x1b\[31m\\xff"),
    ],
    ids=["rejected", "http", "closed", "endless", "escape"],
)
def test_a_server_that_is_not_a_bus_is_named(
    short_directory: Path, answer: bytes, why: str
) -> None:
    def serve(client: socket.socket) -> None:
        until(client, b"DATA\r\n")
        client.sendall(answer)

    before = open_fds()
    with served(short_directory, serve) as where, pytest.raises(Disconnected, match=why):
        BlockingConnection.connect(where)
    assert open_fds() == before


def test_an_answer_that_does_not_come_in_time(short_directory: Path) -> None:
    done = threading.Event()

    def serve(client: socket.socket) -> None:
        until(client, b"DATA\r\n")
        client.sendall(AUTHENTICATION + HELLO)
        done.wait(10)

    with (
        served(short_directory, serve) as where,
        BlockingConnection.connect(where) as connection,
    ):
        try:
            serial = connection.send("org.example.Slow", "/", "org.example.Slow", "Slow")
            with pytest.raises(NoReply, match=r"0\.01 s"):
                connection.reply(serial, 0.01)
            assert connection.signal(time.monotonic()) is None
        finally:
            done.set()


def test_a_bus_that_goes_ends_a_call(short_directory: Path) -> None:
    def serve(client: socket.socket) -> None:
        until(client, b"DATA\r\n")
        client.sendall(AUTHENTICATION + HELLO)
        until(client, b"Slow")

    with (
        served(short_directory, serve) as where,
        BlockingConnection.connect(where) as connection,
        pytest.raises(Disconnected),
    ):
        connection.call("org.example.Slow", "/", "org.example.Slow", "Slow")


def test_an_answer_in_pieces_is_put_together(short_directory: Path) -> None:
    def serve(client: socket.socket) -> None:
        until(client, b"DATA\r\n")
        for byte in AUTHENTICATION:
            client.sendall(bytes([byte]))
        assert until(client, b"Hello").startswith(b"BEGIN\r\n")
        for byte in HELLO + wire.signal("One", "s", ["x"]) + wire.signal("Two"):
            client.sendall(bytes([byte]))

    with (
        served(short_directory, serve) as where,
        BlockingConnection.connect(where) as connection,
    ):
        assert connection.unique_name == ":1.1"
        found = [connection.signal(None) for _ in range(2)]
        assert [(each.member, each.body) for each in found if each] == [("One", ["x"]), ("Two", [])]
