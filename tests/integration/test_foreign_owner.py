"""Every verb where another client owns the broker's name, or none answers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.client import client as remotes
from broker.client.client import Client
from broker.errors import NoBroker, NotUnderstood
from tests.aio_client import MANAGER, ROOT, SERVICE
from tests.bus import conftest as foreign
from tests.integration.owner import NAME, PATH, Broker, Owner, every

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.bus.wire import Received
    from tests.integration.owner import Answer

short_directory = foreign.short_directory
dbus_daemon = foreign.dbus_daemon
dbus_broker = foreign.dbus_broker
bus = foreign.bus

READING: Final = [
    ["list"],
    ["list", "--json=short"],
    ["status"],
    ["status", NAME],
    ["status", "-j", NAME],
    ["status", "4711"],
    ["show", NAME],
    ["ps"],
    ["ps", "--exited", NAME],
    ["wait", "--timeout=1", "--for=exit", NAME],
    ["monitor", "--timeout=1", NAME],
    ["logs", NAME],
    ["logs", "-f", "--timeout=1", NAME],
    ["env"],
    ["env", "-j"],
    ["analyze", "blame"],
    ["analyze", "plot"],
    ["analyze", "dot"],
]
CHANGING: Final = [
    ["start", NAME],
    ["start", "--timeout=1", NAME],
    ["stop", NAME],
    ["kill", NAME],
    ["reset-failed"],
    ["reload"],
    ["env", "A=b"],
]
VERBS: Final = READING + CHANGING
ESCAPE: Final = "\x1b[31mred\x07\x9b2J\nforged: line\r"
LONG: Final = "x" * (1 << 21)


def run(
    where: str, verbs: list[list[str]], patience: float = 20
) -> list[tuple[str, int, str, str]]:
    """Run verbs on a bus: each with its status, its output and its diagnostics."""
    asked = {"patience": patience, "runs": [[*each, f"--address={where}"] for each in verbs]}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.each_verb"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    found = [
        (" ".join(verb), *each) for verb, each in zip(verbs, json.loads(done.stdout), strict=True)
    ]
    for verb, status, out, err in found:
        assert status in (0, 1, 3, 4, 124), (verb, status, err)
        assert "Traceback" not in err, (verb, err)
        for text in (out, err):
            assert [
                each
                for each in text
                if each != "\n" and ord(each) in (*range(32), *range(127, 160))
            ] == [], verb
        for line in err.splitlines():
            assert line.startswith("dbus-activator: "), (verb, err)
            assert len(line) < 10_000, verb
    return found


def refusals(found: list[tuple[str, int, str, str]]) -> dict[str, str]:
    """The one line of each verb, all of which have failed with 1."""
    lines = {}
    for verb, status, out, err in found:
        assert (status, out) == (1, ""), (verb, out, err)
        *started, line = err.splitlines()
        assert started in ([], ["dbus-activator: monitoring; Ctrl-C ends it"]), (verb, err)
        lines[verb] = line
    return lines


@pytest.mark.parametrize(
    "answer",
    [
        every("u", 7),
        every(""),
        every("a{sv}", {ESCAPE: ("s", ESCAPE)}),
        every("a(sosu)", [[ESCAPE, "/x", "gone", 1]]),
        every("v", ("ay", b"\x1b")),
    ],
    ids=["number", "nothing", "dictionary", "rows", "variant"],
)
def test_answers_of_another_type(dbus_daemon: str, answer: Callable[[Received], Answer]) -> None:
    """What changes something promises no answer; so an empty one is right."""
    with Owner(dbus_daemon, answer) as owner:
        verbs = READING if owner.answer(None) == ("", []) else VERBS  # type: ignore[arg-type]
        found = refusals(run(dbus_daemon, verbs))
    for verb, line in found.items():
        assert "is not understood" in line, (verb, line)


@pytest.mark.parametrize(
    "answer",
    [
        Broker(LONG),
        Broker(ActiveState="gone", State="gone", ExecMainCode=77),
        Broker(ActiveState=ESCAPE, State=ESCAPE),
        Broker(Name=ESCAPE, ServiceName=ESCAPE),
        Broker(ActiveState=("u", 1), State=("as", ["running"])),
        Broker(ActiveState=None, State=None),
    ],
    ids=["long", "state", "escape", "name", "type", "missing"],
)
def test_values_that_cannot_be(dbus_daemon: str, answer: Broker) -> None:
    asking = ("list", "show", "ps", "analyze")
    reading = [verb for verb in READING if verb[0] in asking] + [["wait", NAME]]
    with Owner(dbus_daemon, answer):
        found = refusals(run(dbus_daemon, reading))
    for verb, line in found.items():
        assert "is not understood" in line, (verb, line)


@pytest.mark.parametrize(
    "value",
    [("a(us)", [[1, "x"]]), ("a(uuttttttttu)", [[1] * 11]), ("as", ["x"])],
    ids=["short", "result", "text"],
)
def test_activations_that_cannot_be(dbus_daemon: str, value: tuple[str, Any]) -> None:
    reading = [["analyze", "blame"], ["analyze", "plot"], ["status", NAME], ["show", NAME]]
    with Owner(dbus_daemon, Broker(Activations=value)):
        found = refusals(run(dbus_daemon, reading))
    for verb, line in found.items():
        assert "its Activations is no a(uutttttttts)" in line, (verb, line)


@pytest.mark.parametrize(
    "answer",
    [
        Broker(ESCAPE, 2**31 - 1, ExecMainCode=2, ExecMainStatus=200, ExitCode=3, ExitStatus=255),
        Broker(ESCAPE, 0),
        every("error", ESCAPE),
        every("error", LONG),
    ],
    ids=["largest", "smallest", "error", "long-error"],
)
def test_values_that_no_terminal_should_see(
    dbus_broker: str, answer: Callable[[Received], Answer]
) -> None:
    if isinstance(answer, Broker):
        answer.more = {ESCAPE: ("a{ts}", {7: ESCAPE})}
    with Owner(dbus_broker, answer):
        for verb, status, out, err in run(dbus_broker, VERBS):
            assert status == 0 or out or err, verb
            assert len(err.splitlines()) <= 1 + verb.startswith("monitor"), (verb, err)


@pytest.mark.parametrize(
    ("member", "signature", "body"),
    [
        ("ProcessExited", "s", ["x"]),
        ("ProcessExited", "osuiia{sv}", ["/x", NAME, 1, 9, 9, {}]),
        ("ProcessExited", "osuiia{sv}", ["/x", NAME, 1, 1, 9, {"Command": ("u", 1)}]),
        ("ProcessStarted", "osuus", ["/x", ESCAPE, 1, 2, "spawned"]),
        ("ActivationFailed", "sssa{sv}", [NAME, "x", "x", {"StateChangeTimestamp": ("s", "x")}]),
        ("LogAppended", "", []),
    ],
    ids=["type", "code", "details", "name", "time", "nothing"],
)
def test_signals_that_cannot_be(
    dbus_daemon: str, member: str, signature: str, body: list[Any]
) -> None:
    with Owner(dbus_daemon, Broker()) as owner, Client.connect(dbus_daemon) as remote:
        remote.subscribe()
        owner.emit(MANAGER, member, signature, *body, path=ROOT)
        with pytest.raises(NotUnderstood, match=f"signal {member} is not understood"):
            remote.signal(time.monotonic() + 10)
        # It has no meaning on another interface.
        owner.emit("org.evil.Any", member, signature, *body, path=ROOT)
        remote.ask("ListServices")
        assert remote.signal(time.monotonic()) is None


def test_silence(dbus_broker: str) -> None:
    """No verb hangs; one that waits for something does with its --timeout."""
    with Owner(dbus_broker, lambda _call: None):
        for verb, status, out, err in run(dbus_broker, VERBS, patience=0.5):
            assert (status, out) == (124, ""), (verb, err)
            (line,) = err.splitlines()
            assert "no answer from the broker" in line or verb.startswith("start --timeout"), verb


def test_a_broker_that_answers_is_waited_for(dbus_daemon: str) -> None:
    """A service may take longer to start than a broker may be silent."""
    questions = 0
    begun: list[Received] = []

    def answer(call: Received) -> Answer:
        nonlocal questions
        if call.member == "StartService":
            begun.append(call)
            return None
        questions += 1
        if questions == 3:
            owner.return_late(begun[0], "o", PATH)
        return Broker()(call)

    with Owner(dbus_daemon, answer) as owner:
        ((_, status, _, err),) = run(dbus_daemon, [["start", NAME]], patience=0.3)
        assert (status, err) == (0, "")


@contextlib.contextmanager
def stopped(directory: Path, backlog: int) -> Iterator[str]:
    """A bus that accepts nobody: its socket takes connections, until its backlog is full."""
    path = directory / "stopped"
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as stack:
        listening.bind(str(path))
        listening.listen(backlog)
        with contextlib.suppress(BlockingIOError):
            while not backlog:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        yield f"unix:path={path}"
    path.unlink()


@pytest.mark.parametrize("backlog", [0, 100], ids=["full", "silent"])
def test_a_bus_that_is_stopped(short_directory: Path, backlog: int) -> None:
    with stopped(short_directory, backlog) as where:
        for verb, status, out, err in run(where, VERBS, patience=0.5):
            assert (status, out) == (124, ""), (verb, err)
            (line,) = err.splitlines()
            assert "no answer from the bus" in line, verb


# -- the owner changes -------------------------------------------------------------------


class Follower:
    """A verb that follows the broker, as a process."""

    def __init__(self, where: str, *argv: str) -> None:
        command = [sys.executable, "-m", "broker", *argv, f"--address={where}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Its status and what it said on standard error."""
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


class Life(Broker):
    """A broker with a log."""

    def __init__(self, *lines: str, **values: Any) -> None:
        super().__init__(**values)
        self.lines = lines

    def __call__(self, call: Received) -> Answer:
        if call.member == "GetLog":
            entries = [[at, at, at, 1, "stdout", line] for at, line in enumerate(self.lines, 1)]
            after = call.body[1]
            return "a(tttuss)t", [entries[after:], 0]
        return super().__call__(call)


def test_those_that_follow_survive_a_new_connection_of_the_broker(bus: str) -> None:
    before = Life("one", ActiveState="active", SubState="running", Owner="", InvocationID=b"1")
    ended = {"ActiveState": "failed", "SubState": "failed", "ExecMainPID": 7, "Owner": ":1.77"}
    exited = {"ExecMainCode": 1, "ExecMainStatus": 42, "InvocationID": b"1"}
    after = Life("one", "two", **ended, **exited)
    with Owner(bus, before) as first:
        followers = [
            Follower(bus, "wait", NAME),
            Follower(bus, "wait", "--for=exit", NAME),
            Follower(bus, "monitor", "-q", "--json=short"),
            Follower(bus, "logs", "-f", NAME),
        ]
        try:
            name, end, monitor, logs = followers
            assert "one" in logs.line()
            first.until_asked("GetAll", "GetAll", "ListServiceStates", "GetLog")
            first.leave()
            with Owner(bus, after) as second:
                assert name.end() == (0, "")
                assert end.end() == (42, "")
                event = json.loads(monitor.line())
                assert (event["Service"], event["SubState"]) == (NAME, "failed")
                assert "two" in logs.line()
                # They hear the new one, and go on.
                changed = {"ActiveState": ("s", "inactive"), "SubState": ("s", "dead")}
                second.emit(
                    "org.freedesktop.DBus.Properties",
                    "PropertiesChanged",
                    "sa{sv}as",
                    SERVICE,
                    changed,
                    [],
                    path=PATH,
                )
                assert json.loads(monitor.line())["SubState"] == "dead"
        finally:
            for each in followers:
                each.process.kill()
                each.process.communicate()


def test_a_question_in_flight_is_asked_again(bus: str) -> None:
    """What changes something is not: it may have been done."""
    with Owner(bus, lambda _call: None) as first, Client.connect(bus) as remote:

        def succeed() -> None:
            first.until_asked("ListServices")
            first.leave()
            with Owner(bus, Broker()) as second:
                second.until_asked("ListServices", "StopService")

        thread = threading.Thread(target=succeed)
        thread.start()
        try:
            assert remote.ask("ListServices")[0][0][0] == NAME
            assert remote.call("StopService", "s", NAME) == []
        finally:
            thread.join()
    with Owner(bus, lambda _call: None) as first, Client.connect(bus) as remote:
        serial = remote.send("StopService", "s", NAME)
        first.until_asked("StopService")
        first.leave()
        with pytest.raises(NoBroker, match="has left the bus"):
            remote.reply(serial)


def test_a_broker_that_does_not_come_back(bus: str, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(remotes, "RETURN", 0.1)
    with Owner(bus, Broker()) as first, Client.connect(bus) as remote:
        remote.subscribe()
        remote.ask("ListServices")
        first.leave()
        with pytest.raises(NoBroker, match="has left the bus"):
            remote.signal(None)
        with pytest.raises(NoBroker, match="has left the bus"):
            remote.ask("ListServices")
