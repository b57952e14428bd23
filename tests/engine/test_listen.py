"""The addresses that a bus may listen on."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from broker.engine import listen
from broker.errors import BadConfiguration


def test_a_private_socket_is_in_a_directory_that_only_we_enter(tmp_path: Path) -> None:
    listener = listen.private({"XDG_RUNTIME_DIR": str(tmp_path)})
    name = listener.address.socket_name()
    assert name is not None
    assert stat.S_IMODE(Path(name).parent.stat().st_mode) == 0o700
    listener.bind().close()
    listener.close()
    assert not Path(name).parent.exists()


def test_a_deep_runtime_directory_does_not_make_the_path_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    listener = listen.private({"XDG_RUNTIME_DIR": str(deep)})
    assert str(listener.address).startswith("unix:path=/tmp/")
    listener.close()


@pytest.mark.parametrize("kind", ["datagram", "tcp", "not-listening", "unbound"])
def test_a_descriptor_that_is_no_listening_stream_socket_is_refused(kind: str) -> None:
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    sock = socket.socket(family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
    if kind == "tcp":
        sock.listen()
    fd = sock.detach()
    with pytest.raises(BadConfiguration, match=rf"descriptor {fd} of LISTEN_FDS"):
        listen.from_descriptor(fd)


def test_an_abstract_socket_is_taken_over() -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"\0dbus-activator-test-{os.getpid()}")
    sock.listen()
    listener = listen.from_descriptor(sock.detach())
    assert str(listener.address) == f"unix:abstract=dbus-activator-test-{os.getpid()}"
    assert listener.sock is not None
    assert listener.bind() is listener.sock
    listener.sock.close()
