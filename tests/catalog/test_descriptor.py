"""The contents of descriptors, the errors of broken ones, and files that are not descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.catalog.descriptor import LARGEST, Descriptor, PlaceholderError, parse, read
from broker.catalog.names import is_bus_name
from broker.errors import DescriptorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = b"[D-BUS Service]\nName=a.b\nExec=/bin/true\n"


def refusal(data: bytes) -> tuple[int, str]:
    with pytest.raises(DescriptorError) as caught:
        parse("/x.service", data)
    assert caught.value.path == "/x.service"
    return caught.value.line, caught.value.reason


def unreadable(path: Path) -> str:
    with pytest.raises(DescriptorError) as caught:
        read(str(path))
    assert (caught.value.path, caught.value.line) == (str(path), 0)
    return caught.value.reason


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: become another user for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_all_keys() -> None:
    data = (
        b"# A comment\n\n[Other]\nName=x.y\n[D-BUS Service]\nName = a.b\n"
        b"Exec=/bin/echo 'a b' \"c\" # d\nUser=me\nSystemdService=b.service\n"
        b"AssumedAppArmorLabel=/x\nX-Vendor=1\nName[de]=c.d\nName=e.f\n"
    )
    assert parse("/x.service", data) == Descriptor(
        path="/x.service",
        name="a.b",
        argv=("/bin/echo", "a b", "c"),
        user="me",
        systemd_service="b.service",
    )


def test_systemd_service_alone() -> None:
    found = parse("/x", b"[D-BUS Service]\nName=a.b\nSystemdService=b.service\n")
    assert (found.argv, found.systemd_service) == ((), "b.service")


def test_crlf() -> None:
    assert parse("/x", GOOD.replace(b"\n", b"\r\n")).argv == ("/bin/true",)


# The key file's escapes come first, the shell's quotes after.
def test_both_kinds_of_escapes() -> None:
    found = parse("/x", rb"[D-BUS Service]" b"\nName=a.b\n" rb"Exec=\sa\tb\nc\\ d '\\\\'" b"\n")
    assert found.argv == ("a", "b", "c d", "\\\\")


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 0, "has no group [D-BUS Service]"),
        (b"[Other]\nName=a.b\nExec=/x\n", 0, "has no group [D-BUS Service]"),
        (b"[D-BUS Service]\nExec=/x\n", 0, "has no Name in [D-BUS Service]"),
        (
            b"[D-BUS Service]\nName=a.b\n",
            0,
            "has neither Exec nor SystemdService in [D-BUS Service]",
        ),
        (
            b"[D-BUS Service]\nName=a.b\nSystemdService=\n",
            0,
            "has neither Exec nor SystemdService in [D-BUS Service]",
        ),
        # dbus-broker puts the two groups together; dbus-daemon does not.
        (
            b"[D-BUS Service]\nName=a.b\n[D-BUS Service]\nExec=/x\n",
            0,
            "has neither Exec nor SystemdService in [D-BUS Service]",
        ),
        (b"[D-BUS Service]\nName=\nExec=/x\n", 2, "Name '' is not a valid bus name"),
        (b"[D-BUS Service]\n\nName=a.b \nExec=/x\n", 3, "Name 'a.b ' is not a valid bus name"),
        (b"[D-BUS Service]\nName=a.b\\n\nExec=/x\n", 2, "Name 'a.b\\n' is not a valid bus name"),
        (b"[D-BUS Service]\nName=\ta.b\nExec=/x\n", 2, "Name '\\ta.b' is not a valid bus name"),
        (b"[D-BUS Service]\nName=:1.7\nExec=/x\n", 2, "Name ':1.7' is not a valid bus name"),
        (b"[D-BUS Service]\nName=a.b\nExec=/x 'y\n", 3, "unclosed single quote"),
        (b'[D-BUS Service]\r\nName=a.b\r\n\r\nExec=/x "y', 4, "unclosed double quote"),
        (
            b"[D-BUS Service]\nName=a.b\nExec=/x \\\\\n",
            3,
            "nothing follows the backslash at the end",
        ),
        (b"[D-BUS Service]\nName=a.b\nExec=\n", 3, "Exec is empty"),
        (b"[D-BUS Service]\nName=a.b\nSystemdService=c\nExec= \n", 4, "Exec is empty"),
        (
            b"[D-BUS Service]\nName=org.freedesktop.DBus\nExec=/x\n",
            2,
            "org.freedesktop.DBus cannot be provided by a file: it is the message bus itself",
        ),
        (
            b"[D-BUS Service]\nName=org.activation.Broker1\nExec=/x\n",
            2,
            "org.activation.Broker1 cannot be provided by a file: it is the broker itself",
        ),
        (b"Name=a.b\n" + GOOD, 1, "no group header such as [D-BUS Service] comes before this"),
        (b"\xef\xbb\xbf" + GOOD, 1, "a byte order mark begins the file"),
        (GOOD + b"\n#\xff\n", 5, "not valid UTF-8"),
        (b"\r\r\n\n\xff", 4, "not valid UTF-8"),
        (GOOD + b"# \0\n", 4, "contains a NUL"),
        (GOOD + b" User=x\n", 4, "a blank comes before the key"),
        (GOOD + b"My Key=x\n", 4, "'K' comes between a key and its ="),
        (GOOD + b"User\t=x\n", 4, "'\\t' comes between a key and its ="),
        (GOOD + b"X_Y=x\n", 4, "'_' comes between a key and its ="),
        (GOOD + b"User\n", 4, "'User' has no ="),
        (GOOD + b"User  \n", 4, "'User  ' has no ="),
        (GOOD + b"=x\n", 4, "'=x' does not start with a key"),
        (GOOD + b"User=a\\qb\n", 4, "'\\\\q' is not one of \\s \\t \\n \\r \\\\"),
        (GOOD + b"User=a\\\n", 4, "'\\\\' is not one of \\s \\t \\n \\r \\\\"),
        (GOOD + b"[Other]\nX=\\;\n", 5, "'\\\\;' is not one of \\s \\t \\n \\r \\\\"),
        (GOOD + b"[Other\n", 4, "'[Other' is not a group header: it does not end in ]"),
        (GOOD + b"[\n", 4, "'[' is not a group header: it does not end in ]"),
        (GOOD + b"[Other] \n", 4, "'[Other] ' is not a group header: it does not end in ]"),
        (GOOD + b"[]\n", 4, "'' is not a group name"),
        (GOOD + b"[a]b]\n", 4, "'a]b' is not a group name"),
        (GOOD + "[ä]\n".encode(), 4, "'ä' is not a group name"),
    ],
)
def test_refused(data: bytes, line: int, reason: str) -> None:
    assert refusal(data) == (line, reason)


def test_placeholder_of_systemd() -> None:
    data = b"[D-BUS Service]\nName=org.freedesktop.systemd1\nExec=%s\nUser=root\n"
    with pytest.raises(PlaceholderError):
        parse("/x", data % b"/bin/false")
    # Another file for that name is no placeholder: its author expects it to work.
    assert parse("/x", data % b"/bin/true").argv == ("/bin/true",)


def test_messages_are_short_and_can_be_written() -> None:
    with pytest.raises(DescriptorError) as caught:
        parse("/a\udcff\n\x1b/x", b"[D-BUS Service]\nName=%s\nExec=/x" % (b"\x1b" * 100_000))
    text = str(caught.value)
    assert text.startswith("/a\\udcff\\n\\x1b/x:2: Name '\\x1b")
    assert text.isprintable()
    assert len(text.encode()) < 1000


# Noise, and lines that read well, so that the noise is met everywhere.
LINES = st.one_of(
    st.sampled_from([b"[D-BUS Service]", b"Name=a.b", b"Exec=x 'y'", b"SystemdService=x", b"#"]),
    st.sampled_from([b"Exec='", b"Exec=\\\\", b"Name=", b"[x", b" ", b"Name[", b"X=\\"]),
    st.binary(max_size=8),
)


@given(st.one_of(st.binary(), st.lists(LINES, max_size=8).map(b"\n".join)))
def test_any_bytes_are_a_descriptor_or_a_problem(data: bytes) -> None:
    try:
        found = parse("/x", data)
    except DescriptorError as error:
        problem = error
    else:
        assert is_bus_name(found.name)
        assert found.argv or found.systemd_service
        assert not any("\0" in word for word in found.argv)
        return
    assert problem.reason.isprintable()
    assert 0 <= problem.line <= 1 + len(re.findall(rb"[\r\n]", data))


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    path.write_bytes(GOOD)
    assert read(str(path)) == Descriptor(str(path), "a.b", ("/bin/true",), "", "")


def test_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(GOOD)
    (tmp_path / "x.service").symlink_to("file")
    assert read(str(tmp_path / "x.service")).name == "a.b"


def test_missing(tmp_path: Path) -> None:
    assert unreadable(tmp_path / "x.service") == "No such file or directory"


def test_dangling_and_circular_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nothing")
    assert unreadable(tmp_path / "a") == "No such file or directory"
    (tmp_path / "b").symlink_to("b")
    assert unreadable(tmp_path / "b") == "Too many levels of symbolic links"


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    path.write_bytes(GOOD)
    path.chmod(0)
    with without_privileges():
        assert unreadable(path) == "Permission denied"


def test_directory(tmp_path: Path) -> None:
    assert unreadable(tmp_path) == "is a directory, not a regular file"


# The open of a FIFO waits for a writer, unless it is told not to.
@pytest.mark.timeout(5)
def test_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.service")
    assert unreadable(tmp_path / "x.service") == "is a FIFO, not a regular file"


def test_socket(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert unreadable(path) == "is a socket, not a regular file"


def test_device(tmp_path: Path) -> None:
    (tmp_path / "x.service").symlink_to("/dev/zero")
    assert unreadable(tmp_path / "x.service") == "is a character device, not a regular file"


def test_size(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    path.write_bytes(GOOD.ljust(LARGEST, b"\n"))
    assert read(str(path)).name == "a.b"
    path.write_bytes(GOOD.ljust(LARGEST + 1, b"\n"))
    assert unreadable(path) == "131073 bytes are more than 131072"


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.service"
    with path.open("wb") as file:
        file.truncate(10_000_000)

    def no_read(fd: int, size: int) -> bytes:
        raise AssertionError((fd, size))

    monkeypatch.setattr(os, "read", no_read)
    assert unreadable(path) == "10000000 bytes are more than 131072"


# A file that grows after its size was asked for: here one in /proc, whose size is always 0.
def test_a_file_larger_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.catalog.descriptor.LARGEST", 10)
    (tmp_path / "x.service").symlink_to("/proc/self/status")
    assert unreadable(tmp_path / "x.service") == "has more than 10 bytes"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    (tmp_path / "bad").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    read(str(tmp_path / "good"))
    for name in ("bad", "fifo", "missing"):
        unreadable_or_bad(tmp_path / name)
    assert os.listdir("/proc/self/fd") == before


def unreadable_or_bad(path: Path) -> None:
    with pytest.raises(DescriptorError):
        read(str(path))
