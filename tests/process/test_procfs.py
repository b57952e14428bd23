"""What /proc says, of processes with the worst names and at the worst moments."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from broker.core.printable import LONGEST
from broker.process import procfs
from tests.process.harness import run
from tests.process.scenarios import starting

if TYPE_CHECKING:
    from collections.abc import Iterator

# These change nothing in this process, so they may run in it; the children end
# when their standard input does.


@contextmanager
def started(
    child: str, mode: str, argument: str | bytes = "0"
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in one of its modes, which has said that it is what it is to be."""
    with subprocess.Popen(
        [child, mode, "0", "stdin", argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            # Both ends: the exit must not wait for anything else.
            assert process.stdin is not None
            process.stdin.close()


def line_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


NAMES = {
    b"plain": "plain",
    b"two words": "two words",
    b") S 1 1 1": ") S 1 1 1",
    b"(((": "(((",
    b")))": ")))",
    b"a) R (b": "a) R (b",
    b"new\nline": "new\nline",
    b") Z 0\n0 0": ") Z 0\n0 0",
    b" ": " ",
    b"\t\r\x01": "\t\r\x01",
    "ü€".encode(): "ü€",
    b"\xff\xfe": "\\xff\\xfe",
    b"back\\slash": "back\\slash",
    # A letter is cut in the middle after 15 bytes.
    "aaaaaaaaaaaaaaü".encode(): "aaaaaaaaaaaaaa\\xc3",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_hostile_command_name_does_not_shift_the_fields(child: str, name: bytes) -> None:
    with started(child, "name", name) as process:
        line_of(process)
        about = procfs.stat(process.pid)
        assert about is not None
        assert about.comm == NAMES[name]
        assert about.state in "RS"
        assert about.ppid == os.getpid()
        assert about.group == os.getpgid(process.pid)
        assert about.session == os.getsid(process.pid)
        assert about.start_ticks > 0
        assert procfs.command(process.pid)[:2] == (child, "name")
        assert procfs.alive(process.pid)


def test_a_zombie_still_says_whose_it_was(child: str) -> None:
    with started(child, "zombie") as process:
        pid = int(line_of(process))
        about = procfs.stat(pid)
        assert about is not None
        assert (about.comm, about.state, about.ppid) == ("child", "Z", process.pid)
        assert about.session == os.getsid(process.pid)
        assert procfs.command(pid) == ("[child]",)
        assert procfs.arguments(pid) == ()
        assert procfs.children_of(process.pid) == [pid]
        assert procfs.cgroup(pid) == procfs.cgroup(os.getpid())
        assert not procfs.alive(pid)
        assert procfs.peak_memory(pid) == 0


def test_an_ended_process_has_no_record(child: str) -> None:
    with started(child, "plain") as process:
        pid = process.pid
    assert procfs.stat(pid) is None
    assert procfs.command(pid) == ()
    assert procfs.cgroup(pid) == ""
    assert procfs.children_of(pid) == []
    assert procfs.read(f"/proc/{pid}/stat") is None
    assert not procfs.alive(pid)
    assert procfs.cpu_nanoseconds(pid) == procfs.peak_memory(pid) == 0


def test_a_file_that_goes_while_it_is_open_is_nothing(child: str) -> None:
    with started(child, "plain") as process:
        path = f"/proc/{process.pid}/stat"
        fd = os.open(path, os.O_RDONLY)
        original = os.open

        def late(_path: str, _flags: int) -> int:
            return os.dup(fd)

        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", late)
            assert procfs.read(path) is None
        assert os.open is original
        os.close(fd)


def test_the_children_of_all_threads_are_found(child: str) -> None:
    count = 7
    value = run(starting.children_of_threads, child, count)
    assert value["threads"] == count + 1
    assert len(value["listed"]) == len(set(value["listed"])) == count
    assert value["parents"] is True
    # The way of a kernel that does not list them.
    assert sorted(value["searched"]) == sorted(value["listed"])
    assert value["rest"] == ""


def test_our_own_children_are_found(child: str) -> None:
    with started(child, "plain") as first, started(child, "zombie") as second:
        grandchild = int(line_of(second))
        found = procfs.children()
        assert {first.pid, second.pid} <= set(found)
        assert grandchild not in found


def test_time_and_memory_of_a_live_process() -> None:
    own = os.getpid()
    before = procfs.cpu_nanoseconds(own)
    while procfs.cpu_nanoseconds(own) == before:
        pass
    ticks = 1_000_000_000 // procfs.TICKS_PER_SECOND
    assert (procfs.cpu_nanoseconds(own) - before) % ticks == 0
    assert procfs.peak_memory(own) > 1 << 20


def test_of_a_long_command_line_a_page_is_kept() -> None:
    script = "echo; read line; :"
    argv = ["/bin/sh", "-c", script, *["é" * 50_000] * 18]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        line_of(process)
        shown = procfs.command(process.pid)
    assert shown[:3] == ("/bin/sh", "-c", script)
    assert len("\0".join(shown).encode()) in (LONGEST - 1, LONGEST)
    assert set(shown[3]) == {"é", "…"}
    assert shown[3].endswith("é…")


def test_the_command_line_of_a_program_that_was_given_odd_arguments() -> None:
    argv = ["/bin/sh", "-c", "echo; read line; :", "two words", "a\nb", "\udcff"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # In the midst of its exec, a process has no command line.
        line_of(process)
        assert procfs.command(process.pid) == (
            "/bin/sh",
            "-c",
            "echo; read line; :",
            "two words",
            "a\nb",
            "\\xff",
        )


def test_what_is_killed_is_ending_before_it_is_dead(child: str) -> None:
    with started(child, "name", "plain") as process:
        line_of(process)
        assert not procfs.is_ending(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        # It may be between the signal, which it has taken, and its end, which it has not begun.
        while not procfs.is_ending(process.pid):
            pass
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.is_ending(process.pid)


def test_what_lives_on_without_its_main_thread_is_not_ending(child: str) -> None:
    # It reports on descriptor 4, when its main thread is a zombie.
    shell = ["sh", "-c", 'exec "$0" leaderless 0 stdin 4>&1', child]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.read(1)
            assert not procfs.is_ending(process.pid)
        finally:
            process.stdin.close()


def test_the_program_of_a_process_is_its_file(child: str) -> None:
    with subprocess.Popen(
        ["another", "plain", "0", "stdin"], executable=child, stdin=subprocess.PIPE
    ) as process:
        assert procfs.program(process.pid) == os.path.basename(child)
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # A zombie executes nothing, and has its name alone.
        assert procfs.program(process.pid) == os.path.basename(child)[:15]
    assert procfs.program(process.pid) == ""
