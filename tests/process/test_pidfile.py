"""The PID file of a bus: its owner decides, and contents that are not a PID."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from broker.errors import BadConfiguration
from broker.process import pidfile, procfs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "pid"


def take(path: Path, *own: int) -> None:
    """Take the file and release it."""
    with pidfile.held(str(path), own):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def refused(path: Path) -> str:
    """Why it is not taken, nor changed."""
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(BadConfiguration) as caught, pidfile.held(str(path), ()):
        raise AssertionError("it was taken")
    assert (path.read_bytes() if path.is_file() else b"") == before
    return str(caught.value)


def test_a_stale_file_is_taken_over_with_a_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        path.write_text(f"{other.pid}\n")
        take(path)
        taken = f"the PID file {path} is taken over"
        assert caplog.messages == [f"{taken}: process {other.pid} is not a message bus, but sleep"]
        other.kill()
        gone = f"the PID file {path} is taken over: process {other.pid} has ended"
        while procfs.alive(other.pid):
            pass
        # A zombie is no bus either.
        path.write_text(str(other.pid))
        take(path)
        other.wait()
        path.write_text(f" {other.pid} \n\n")
        take(path)
    assert caplog.messages[1:] == [gone, gone]


def test_a_pid_that_is_our_own_by_now(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the container before this one, which gave out the same PIDs, as a bus of ours has it."""
    path.write_text(str(os.getpid()))
    take(path, os.getpid())
    assert caplog.messages == [
        f"the PID file {path} is taken over: process {os.getpid()} has ended"
    ]


def test_an_empty_file_and_none_are_taken_in_silence(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    take(path)
    path.touch()
    take(path)
    assert caplog.records == []


def test_a_real_dbus_daemon_that_runs_is_refused(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "bus.conf"
    listen = f"<listen>unix:path={tmp_path}/bus</listen><pidfile>{path}</pidfile>"
    config.write_text(f'<busconfig>{listen}<policy context="default"/></busconfig>')
    command = ["dbus-daemon", "--nofork", "--print-pid", f"--config-file={config}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as bus:
        try:
            assert bus.stdout is not None
            assert bus.stdout.readline()
            assert path.read_text() == f"{bus.pid}\n"
            assert refused(path) == (
                f"the PID file {path} exists: if that bus is not running, remove the file"
            )
        finally:
            bus.kill()
    take(path)


def test_what_another_broker_holds_is_refused_whatever_is_in_it(path: Path) -> None:
    """Its PID may be of another namespace, and its process may have any name."""
    path.write_text("4194304\n")
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "if that bus is not running" in refused(path)
    take(path)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"nonsense\n", "'nonsense'"),
        (b"-1", "'-1'"),
        (b"12 13", "'12 13'"),
        (b"99999999999", "'99999999999'"),
        (b"\xff\x1b[2J", r"'\\xff\x1b[2J'"),
        (b"1" * 10_000_000, f"'{'1' * 33}'"),
    ],
)
def test_a_file_without_a_pid_is_refused(path: Path, data: bytes, shown: str) -> None:
    path.write_bytes(data)
    assert refused(path) == f"the PID file {path} holds no PID, but {shown}"


@pytest.mark.timeout(10)
def test_a_path_that_is_not_a_file_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    assert refused(path) == f"the PID file {path} is not a regular file"
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    assert refused(link) == f"the PID file {link} is not a regular file"
    assert refused(Path("/dev/null")) == "the PID file /dev/null is not a regular file"
    assert refused(tmp_path) == f"cannot write the PID file {tmp_path}: Is a directory"
    nowhere = tmp_path / "none" / "pid"
    assert refused(nowhere) == f"cannot write the PID file {nowhere}: No such file or directory"


def test_the_file_of_another_bus_stays(path: Path) -> None:
    """Our file was removed, and another bus wrote its own."""
    with pidfile.held(str(path), ()):
        path.unlink()
        path.write_text("1\n")
    assert path.read_text() == "1\n"
