"""The end of a bus, whatever becomes of the test and of pytest: nothing is left, and soon."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.errors import EngineFailed
from broker.testing import bus as buses
from broker.testing import host as hosts
from tests.testing.conftest import INI

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFTEST = """
    import os

    import pytest

    @pytest.fixture
    def ready(dbus_activator):
        '''Says which processes there are, when there are some of each kind.'''
        from broker.process import procfs

        bus = dbus_activator
        for name, fault in (("One", "daemonizes"), ("Two", "leaves_child"), ("Three", "hangs")):
            bus.add_faulty(f"org.example.{name}", **{fault: True})
        # One that does not end by SIGTERM.
        bus.add_script("org.example.Four", "trap '' TERM; while :; do sleep 1000 & wait; done")
        bus.start("org.example.One")
        bus.start("org.example.Two")
        for name in ("Three", "Four"):
            bus.remote.send("StartService", "s", f"org.example.{name}")
            assert bus.service(f"org.example.{name}").state == "activating"

        def say():
            call = ("GetConnectionUnixProcessID", "s", "org.activation.Broker1")
            pids = list(bus.remote.bus.call_bus(*call))
            for pid in pids:
                pids += procfs.children_of(pid)
            with open("ready", "w") as fifo:
                print(bus.env["XDG_RUNTIME_DIR"], os.getpid(), *pids, file=fifo)

        return say
"""
BLOCKING = """
    import os
    import signal

    import pytest

    @pytest.mark.dbus_activator(stop_timeout=0.2, leaks="kill")
    def test_blocks(ready, dbus_activator):
        if FORK and not os.fork():
            signal.pause()
        ready()
        dbus_activator.service("org.example.One").wait()
"""


class Run:
    """A pytest of its own, whose test blocks with a bus of seven processes or more."""

    def __init__(self, project: pytest.Pytester, text: str, *options: str) -> None:
        project.makeconftest(CONFTEST)
        project.makepyfile(text)
        os.mkfifo(project.path / "ready")
        self.log = (project.path / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options],
            cwd=project.path,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.tester = 0
        self._fifo = project.path / "ready"
        self._pidfds: list[int] = []

    def wait_until_ready(self) -> None:
        with self._fifo.open() as fifo:
            runtime, *words = fifo.read().split()
        self.runtime = Path(runtime)
        self.tester, *pids = map(int, words)
        # The broker, the engine, and one for each service and its child.
        assert len(pids) >= 7, self.said()
        self._pidfds = [os.pidfd_open(pid) for pid in pids]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def all_gone(self, seconds: float) -> bool:
        """Whether every process of the bus has ended, or does in that time."""
        poll = select.poll()
        for fd in self._pidfds:
            poll.register(fd, select.POLLIN)
        while self._pidfds:
            found = poll.poll(seconds * 1000)
            if not found:
                return False
            for fd, _ in found:
                poll.unregister(fd)
                self._pidfds.remove(fd)
                os.close(fd)
        return True

    def close(self) -> None:
        # Its session: pytest, its workers, and a fork of the test's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        for fd in self._pidfds:
            os.close(fd)


@contextlib.contextmanager
def running(project: pytest.Pytester, text: str, *options: str) -> Iterator[Run]:
    """A pytest that is there to be ended."""
    run = Run(project, text, *options)
    try:
        run.wait_until_ready()
        yield run
    finally:
        run.close()


@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a fork"])
def test_a_killed_pytest_leaves_nothing(project: pytest.Pytester, fork: bool) -> None:
    with running(project, BLOCKING.replace("FORK", str(fork))) as run:
        run.process.kill()
        run.process.wait()
        assert run.all_gone(20)
        assert not run.runtime.exists()


def test_killed_workers_and_controllers_leave_nothing(project: pytest.Pytester) -> None:
    text = BLOCKING.replace("FORK", "False")
    with running(project, text, "-n", "1") as run:
        assert run.tester != run.process.pid
        os.kill(run.tester, signal.SIGKILL)
        assert run.all_gone(20)
    (project.path / "ready").unlink()
    with running(project, text, "-n", "1") as run:
        run.process.kill()
        assert run.all_gone(20)


def test_ctrl_c_ends_the_bus_in_order(project: pytest.Pytester) -> None:
    with running(project, BLOCKING.replace("FORK", "False")) as run:
        # As a terminal does, to all of the foreground's process group.
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.process.wait(30) == pytest.ExitCode.INTERRUPTED
        # pytest has waited for it.
        assert run.all_gone(0)
        assert "KeyboardInterrupt" in run.said()


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_test_that_runs_out_of_time_leaves_nothing(project: pytest.Pytester, method: str) -> None:
    text = BLOCKING.replace("FORK", "False").replace(
        "@pytest", f"@pytest.mark.timeout(3, method='{method}', func_only=True)\n    @pytest", 1
    )
    with running(project, text) as run:
        assert run.process.wait(30) == 1
        # The thread's method ends pytest at once: there is no teardown.
        assert run.all_gone(0 if method == "signal" else 20)
        assert "Timeout" in run.said()


def test_a_failed_test_leaves_nothing(project: pytest.Pytester) -> None:
    text = BLOCKING.replace("FORK", "False").replace(".wait()", ".nonsense()")
    with running(project, text) as run:
        assert run.process.wait(30) == 1
        assert run.all_gone(0)
        assert "AttributeError" in run.said()


STUCK = """
    import os, signal, pytest

    def test_stuck(dbus_activator):
        bus = dbus_activator
        bus.add_faulty("org.example.One", daemonizes=True)
        pid = bus.start("org.example.One").pid
        (broker,) = bus.remote.bus.call_bus(
            "GetConnectionUnixProcessID", "s", "org.activation.Broker1")
        with open("pids", "w") as file:
            print(broker, pid, file=file)
        WHAT
"""


@pytest.mark.parametrize(
    "what",
    [
        "os.kill(broker, signal.SIGSTOP)",
        "os.kill(broker, signal.SIGKILL)",
        "bus.remote.call('Exit')",
    ],
)
def test_a_broker_that_does_not_answer_fails_its_test(
    project: pytest.Pytester, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeini(INI)
    monkeypatch.setattr(buses, "_PATIENCE", 1.0)
    monkeypatch.setattr(hosts, "_STOP_PATIENCE", 1.0)
    project.makepyfile(STUCK.replace("WHAT", what))
    result = project.runpytest_inprocess("--dbus-activator-stop-timeout=0.2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*dbus_activator: the broker does not answer any longer: *"])
    broker, service = map(int, (project.path / "pids").read_text().split())
    for pid in (broker, service):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            # What outlives a killed broker gets the end of its bus, and ends.
            assert select.select([fd], [], [], 20)[0]
            os.close(fd)


def test_nothing_is_left_in_the_file_system(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_one(dbus_activator):
            with open("runtime", "w") as file:
                file.write(dbus_activator.env["XDG_RUNTIME_DIR"])
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)
    assert not os.path.exists((project.path / "runtime").read_text())


def test_a_bus_that_does_not_start_leaves_nothing_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(EngineFailed, match="--services: /absent: no such directory"):
        hosts.Host(["--services=/absent"], tmp_path, {}, 1.0)
    gc.collect()  # a ResourceWarning is an error
    assert set(os.listdir("/proc/self/fd")) <= before
