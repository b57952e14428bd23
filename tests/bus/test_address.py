"""Bus addresses, as the specification's "Server Addresses" has them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.bus import address
from broker.bus.address import Address
from broker.errors import Disconnected, InvalidArgs
from tests.bus.peer import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# -- text ----------------------------------------------------------------------

# A path is bytes without NUL; outside UTF-8 Python has them as surrogates.
NAMES = st.binary(min_size=1).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


def parts(entries: list[Address]) -> list[dict[str, Any]]:
    return [vars(each) for each in entries]


@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["path", "abstract"]))
@example(["/run/a,b;c=d:e%41*\\-_."], "path")
@example([os.fsdecode(b"\xff/\xc3")], "path")
def test_what_is_escaped_is_parsed_back(names: list[str], kind: str) -> None:
    entries = [Address("unix", {kind: name, "guid": "0" * 32}) for name in names]
    text = ";".join(map(str, entries))
    assert parts(address.parse(text)) == parts(entries)
    assert text.isascii()
    assert text.isprintable()


@given(st.text() | st.text(alphabet="%401,;=:*a").map("unix:path=/{}".format))
@example("unix:path=/%")
@example("unix:path=/%4")
@example(os.fsdecode(b"unix:path=/\xff"))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        entries = address.parse(text)
    except InvalidArgs:
        return
    # Escaping what was left plain changes the text, and nothing else.
    assert parts(address.parse(";".join(map(str, entries)))) == parts(entries)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unix:path=/run/user/1000/bus", "/run/user/1000/bus"),
        # dbus-next refuses these, though the specification lists the characters.
        ("unix:path=/run/a*b", "/run/a*b"),
        (r"unix:path=/run/a\b", "/run/a\\b"),
        ("unix:path=/run/a%2ab%20c", "/run/a*b c"),
        ("unix:path=/run/%c3%A4", "/run/ä"),
        ("unix:path=/run/%ff", "/run/\udcff"),
        ("unix:path=/run/a%2Cb%3bc%3D,guid=00", "/run/a,b;c="),
        ("unix:path=/run/a=b", "/run/a=b"),
        ("unix:guid=00,path=/run/bus", "/run/bus"),
        ("unix:abstract=/run/dbus-x", "\0/run/dbus-x"),
        ("unix:abstract=a%00b", "\0a\0b"),
        ("unix:runtime=yes", None),
        ("unix:tmpdir=/tmp", None),
        ("unix:", None),
        ("tcp:host=localhost,port=1", None),
        ("nonce-tcp:host=localhost,port=1,noncefile=/run/x", None),
        ("unixexec:path=/bin/cat,argv1=a", None),
        ("autolaunch:", None),
    ],
)
def test_the_name_of_a_socket(text: str, name: str | None) -> None:
    (entry,) = address.parse(text)
    assert entry.socket_name() == name


def test_options_are_unescaped_by_their_names() -> None:
    (entry,) = address.parse("unixexec:path=ssh,argv1=-p%3d22,argv2=")
    assert entry.transport == "unixexec"
    assert entry.options == {"path": "ssh", "argv1": "-p=22", "argv2": ""}


def test_several_entries_keep_their_order() -> None:
    entries = address.parse("unix:path=/a,guid=00;tcp:host=b;;unix:abstract=c;")
    assert [str(entry) for entry in entries] == [
        "unix:path=/a,guid=00",
        "tcp:host=b",
        "unix:abstract=c",
    ]


@pytest.mark.parametrize("text", ["", ";", ";;"])
def test_nothing_is_no_address(text: str) -> None:
    with pytest.raises(InvalidArgs, match="empty"):
        address.parse(text)


@pytest.mark.parametrize(
    "entry",
    [
        "/run/user/1000/bus",
        "unix",
        "unix:path",
        "unix:=/a",
        "unix:path=/a,",
        "unix:path=/a,,guid=00",
        "unix:path=/a,guid",
        ":path=/a",
        " unix:path=/a",
        "UNIX:path=/a",
        "unix:path=/a%",
        "unix:path=/a%2",
        "unix:path=/a%zz",
        "unix:path=/a%00b",
        "unix:path=/a,path=/b",
    ],
)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(InvalidArgs) as caught:
        address.parse(f"unix:path=/good;{entry};tcp:host=good")
    assert repr(entry) in str(caught.value)
    assert "good" not in str(caught.value)


def test_the_message_about_a_bad_entry_can_be_printed() -> None:
    with pytest.raises(InvalidArgs) as caught:
        address.parse(os.fsdecode(b"unix:path=/\xff%"))
    str(caught.value).encode()


# -- the environment -----------------------------------------------------------


def test_the_session_bus_is_the_default() -> None:
    environ = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/a", "XDG_RUNTIME_DIR": "/run"}
    assert address.default(environ) == "unix:path=/a"


@pytest.mark.parametrize("session", [{}, {"DBUS_SESSION_BUS_ADDRESS": ""}])
def test_else_the_user_bus_is(session: dict[str, str]) -> None:
    where = address.default({**session, "XDG_RUNTIME_DIR": "/run/a,b"})
    assert where == "unix:path=/run/a%2cb/bus"
    assert address.parse(where)[0].socket_name() == "/run/a,b/bus"


def test_without_either_there_is_no_bus() -> None:
    with pytest.raises(InvalidArgs, match="DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR"):
        address.default({"XDG_RUNTIME_DIR": ""})


def test_a_relative_runtime_directory_is_ignored() -> None:
    environ = {"XDG_RUNTIME_DIR": "run"}
    with pytest.raises(
        InvalidArgs, match="XDG_RUNTIME_DIR is ignored, as it is not an absolute path: 'run'"
    ):
        address.default(environ)


# -- sockets -------------------------------------------------------------------


@pytest.fixture
def listening(short_directory: Path) -> Iterator[Path]:
    path = short_directory / "a,b c"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield path
    path.unlink()


def test_connecting_takes_the_first_entry_that_answers(listening: Path) -> None:
    good = f"unix:path={address.escape(str(listening))}"
    before = open_fds()
    absent = f"unix:path={address.escape(str(listening.parent))}/absent"
    text = f"tcp:host=localhost,port=1;unix:runtime=yes;{absent};unix:path=;{good};unix:path=/b"
    with address.connect(text) as sock:
        assert sock.getpeername() == str(listening)
        assert not sock.get_inheritable()
        # Those that were tried before are closed.
        assert open_fds() == before + 1


def test_connecting_to_an_abstract_socket() -> None:
    name = f"dbus-activator-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        with address.connect(f"unix:abstract={name}") as sock:
            assert sock.getpeername() == b"\0" + name.encode()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "No such file"),
        ("daemon.conf/x", "Not a directory"),
        ("refuses", "Connection refused"),
        ("x" * 108, "too long"),
    ],
)
def test_nobody_listening_is_told_with_the_entry(
    short_directory: Path, dbus_daemon: str, name: str, reason: str
) -> None:
    del dbus_daemon  # has made daemon.conf
    (short_directory / "refuses").touch()
    before = open_fds()
    where = f"unix:path={short_directory}/{name}"
    with pytest.raises(Disconnected) as caught:
        address.connect(f"tcp:host=x;{where};nonce-tcp:host=y")
    assert str(caught.value).startswith(f"cannot connect to {where}: ")
    assert reason in str(caught.value)
    assert open_fds() == before


def test_a_path_with_a_nul_is_not_cut_there(listening: Path) -> None:
    """The kernel reads up to the NUL, and would connect to another socket."""
    good = f"unix:path={address.escape(str(listening))}"
    with pytest.raises(InvalidArgs, match="%00"):
        address.connect(good + "%00x")


@pytest.mark.parametrize("text", ["tcp:host=localhost,port=1", "unix:runtime=yes", "autolaunch:"])
def test_only_unix_sockets_are_known(text: str) -> None:
    with pytest.raises(InvalidArgs, match="only Unix sockets") as caught:
        address.connect(text)
    assert text in str(caught.value)
