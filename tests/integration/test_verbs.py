"""Each verb of the command line, against real brokers."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from broker.errors import RemoteError
from tests.integration.buses import TEST

if TYPE_CHECKING:
    import subprocess

    from tests.integration.buses import Bus, Place

pytestmark = pytest.mark.asyncio

GOOD: Final = f"{TEST}.Good"
BAD: Final = f"{TEST}.Bad"
IDLE: Final = f"{TEST}.Idle"

COUNT: Final = {"type": "integer", "minimum": 0}
TEXT: Final = {"type": "string"}
STATES: Final = {"enum": ["inactive", "activating", "active", "deactivating", "failed"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


LIST_SCHEMA: Final = {
    "type": "array",
    "items": _object(
        Name=TEXT,
        Object=TEXT,
        Activatable={"type": "boolean"},
        ActiveState=STATES,
        SubState=TEXT,
        Result=TEXT,
        MainPID=COUNT,
        NProcesses=COUNT,
        StateChangeTimestamp=COUNT,
        OwnerPID=COUNT,
        OwnerCommand={"type": "array", "items": TEXT},
    )
    | {"additionalProperties": False},
}
PROCESS_SCHEMA: Final = _object(
    PID=COUNT,
    PPID=COUNT,
    ServiceName=TEXT,
    Origin={"enum": ["spawned", "adopted"]},
    Attribution={"enum": ["spawned", "cgroup", "tag", "session", "none"]},
    State={"enum": ["running", "exited"]},
    Command={"type": "array", "items": TEXT},
    ExitCode={"enum": [0, 1, 2, 3]},
    ExitStatus=COUNT,
    UserUSec=COUNT,
)
SERVICE_SCHEMA: Final = _object(
    Name=TEXT,
    DescriptorPath=TEXT,
    ExecStart={"type": "array", "items": TEXT},
    ActiveState=STATES,
    InvocationID={"type": "string", "pattern": "^([0-9a-f]{32})?$"},
    PIDs={"type": "array", "items": COUNT},
    ActivationUSec=COUNT,
)
STATUS_SCHEMA: Final = {
    "type": "array",
    "items": SERVICE_SCHEMA
    | {
        "properties": SERVICE_SCHEMA["properties"]
        | {"Processes": {"type": "array", "items": PROCESS_SCHEMA}}
    },
}
BLAME_SCHEMA: Final = {
    "type": "array",
    "items": _object(Name=TEXT, Activation=COUNT, USec=COUNT, Result=TEXT)
    | {"additionalProperties": False},
}
EVENT_SCHEMA: Final = _object(
    Time=COUNT,
    Service=TEXT,
    Event={
        "enum": [
            "started",
            "exited",
            "activation-failed",
            "state",
            "environment",
            "added",
            "removed",
        ]
    },
)


def describe(place: Place) -> None:
    """One that answers, one that fails, one that nobody asks for."""
    place.add(GOOD)
    place.add(BAD, f"{place.service} -x 3 {BAD}")
    place.add(IDLE)


async def verb(bus: Bus, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command on a bus, to its end."""
    environ = bus.place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
    user = bus.place.user
    return await asyncio.to_thread(user.run, [user.command, *argv], env=environ, **options)


async def answer(bus: Bus, *argv: str) -> Any:
    """The JSON that the command prints."""
    done = await verb(bus, *argv, "--json=short")
    assert done.stderr == ""
    return json.loads(done.stdout)


async def test_list(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        done = await verb(bus, "list")
        assert (done.returncode, done.stderr) == (0, "")
        heading, *rows = done.stdout.splitlines()
        assert heading.split() == ["NAME", "STATE", "PID", "PROCS", "RESULT", "SINCE"]
        assert [row.split()[:5] for row in rows] == [
            [BAD, "failed", "-", "-", "exit-code"],
            [GOOD, "active", str(await bus.get(GOOD, "MainPID")), "1", "-"],
            [IDLE, "inactive", "-", "-", "-"],
        ]
        assert rows[0].endswith(" ago")
        for flag, names in (
            ("--activatable", [BAD, GOOD, IDLE]),
            ("--running", [GOOD]),
            ("--failed", [BAD]),
        ):
            found = await answer(bus, "list", flag)
            jsonschema.validate(found, LIST_SCHEMA)
            assert [each["Name"] for each in found] == names
        done = await verb(bus, "list", "--no-legend", "--failed")
        assert done.stdout.split()[0] == BAD


async def test_status(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        pid = await bus.get(GOOD, "MainPID")
        done = await verb(bus, "status", GOOD)
        assert (done.returncode, done.stderr) == (0, "")
        first, *rest = done.stdout.splitlines()
        assert first == f"● {GOOD}"
        facts = dict(line.strip().split(": ", 1) for line in rest if ": " in line)
        assert facts["Loaded"] == str(place.services / f"{GOOD}.service")
        assert facts["Active"].startswith("active (running) since ")
        assert facts["Main PID"] == str(pid)
        assert facts["Activation"].startswith("#1, took ")
        assert facts["Processes"] == "1"
        assert rest[-1].split() == [str(pid), str(place.service), GOOD]
        assert (await verb(bus, "status", str(pid))).stdout.splitlines()[0] == first
        done = await verb(bus, "status", BAD)
        assert done.returncode == 3
        assert done.stdout.startswith(f"× {BAD}\n")
        assert "failed (Result: exit-code) since" in done.stdout
        assert "(code=exited, status=3)" in done.stdout
        assert "#1, failed after " in done.stdout
        assert (await verb(bus, "status", IDLE)).returncode == 3
        done = await verb(bus, "status", GOOD, "no.such.Name", "4194304")
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 2
        assert done.stdout.startswith(f"● {GOOD}\n")
        found = await answer(bus, "status", GOOD)
        jsonschema.validate(found, STATUS_SCHEMA)
        assert [each["PID"] for each in found[0]["Processes"]] == [pid]


async def test_status_shows_processes_that_are_not_our_own_children(place: Place) -> None:
    place.add(GOOD, f'/bin/sh -c "sleep 1000 & {place.service} {GOOD} & wait"')
    async with place.serve() as bus:
        await bus.echo(GOOD)
        done = await verb(bus, "status", GOOD)
        assert [line.split()[1] for line in done.stdout.splitlines()[-3:]] == [
            "/bin/sh",
            "├─",
            "└─",
        ]
        assert "  Processes: 3\n" in done.stdout


async def test_status_of_the_bus(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        done = await verb(bus, "status")
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] == f"× {bus.address}"
        assert f"Engine: {place.engine}" in done.stdout
        assert "Services: 3, 0 active, 1 failed" in done.stdout
        assert done.stdout.splitlines()[-1].split() == ["×", BAD]


async def test_show(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        done = await verb(bus, "show", BAD, "-p", "ExecMainCode,ExecMainStatus", "-p", "Result")
        assert done.stdout == "ExecMainCode=1\nExecMainStatus=3\nResult=exit-code\n"
        done = await verb(bus, "show", BAD, "--value", "-p", "Result")
        assert (done.returncode, done.stdout) == (0, "exit-code\n")
        everything = (await verb(bus, "show", BAD)).stdout.splitlines()
        found = await answer(bus, "show", BAD)
        jsonschema.validate(found, SERVICE_SCHEMA)
        assert [line.partition("=")[0] for line in everything] == list(found)
        done = await verb(bus, "show", "no.such.Name")
        assert (done.returncode, done.stdout) == (4, "")
        done = await verb(bus, "show", BAD, "-p", "Colour")
        assert done.returncode == 1
        assert "no property Colour; it has Name, DescriptorPath" in done.stderr


async def test_ps(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        done = await verb(bus, "ps", GOOD)
        heading, name, row = done.stdout.splitlines()
        assert heading.split() == ["PID", "PPID", "EXIT", "STARTED", "COMMAND"]
        assert name.strip() == GOOD
        pid = str(await bus.get(GOOD, "MainPID"))
        assert row.split()[:3] == [pid, str(bus.pid), "-"]
        assert (await verb(bus, "ps", BAD)).stdout.splitlines()[1:] == []
        done = await verb(bus, "ps", "--exited", BAD)
        assert done.stdout.splitlines()[2].split()[2] == "3"
        found = await answer(bus, "ps", "--exited")
        jsonschema.validate(found, {"type": "array", "items": PROCESS_SCHEMA})
        assert (await verb(bus, "ps", "no.such.Name")).returncode == 4


async def test_start(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        done = await verb(bus, "start", GOOD, IDLE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert await bus.get(GOOD, "SubState") == "running"
        done = await verb(bus, "start", GOOD, BAD, "no.such.Name")
        assert (done.returncode, done.stdout) == (1, "")
        reasons = done.stderr.splitlines()
        assert reasons[0] == f"dbus-activator: Process {BAD} exited with status 3"
        assert "no.such.Name was not provided" in reasons[1]
        found = json.loads((await verb(bus, "start", BAD, "-j")).stdout)
        assert found == [{"Name": BAD, "Started": False, "Message": reasons[0].partition(": ")[2]}]


async def test_start_waits_no_longer_than_it_is_told(place: Place) -> None:
    place.add(GOOD, f"{place.service} -w {place.fifo('wait')} {GOOD}")
    async with place.serve() as bus:
        done = await verb(bus, "start", "--timeout=0.1", GOOD)
        assert done.returncode == 124
        assert f"{GOOD}: has not taken its name within 0.1 s" in done.stderr


async def test_stop(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        done = await verb(bus, "stop", GOOD, IDLE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert await bus.get(GOOD, "SubState", "PIDs") == ("dead", [])
        done = await verb(bus, "stop", "no.such.Name", GOOD)
        assert done.returncode == 4
        assert "no.such.Name" in done.stderr


@pytest.mark.parametrize("word", ["SEGV", "SIGSEGV", "segv", "11"])
async def test_kill(place: Place, word: str) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        done = await verb(bus, "kill", "-s", word, "--whom=main", GOOD)
        assert (done.returncode, done.stderr) == (0, "")
        await bus.state(GOOD, "failed")
        assert await bus.get(GOOD, "ExecMainStatus") == signal.SIGSEGV
        done = await verb(bus, "kill", GOOD)
        assert done.returncode == 1
        assert "has no process" in done.stderr
        assert (await verb(bus, "kill", "no.such.Name")).returncode == 4
        done = await verb(bus, "kill", "-s", "NOTHING", GOOD)
        assert done.returncode == 2
        assert "there is no signal NOTHING" in done.stderr


async def test_reset_failed(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        for names in ([BAD], []):
            await verb(bus, "start", BAD)
            await bus.state(BAD, "failed")
            done = await verb(bus, "reset-failed", *names)
            assert (done.returncode, done.stderr) == (0, "")
            assert await bus.get(BAD, "SubState") == "dead"
        assert (await verb(bus, "reset-failed", "no.such.Name")).returncode == 4


async def test_wait_for_the_name(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        done = await verb(bus, "wait", "--timeout=0.05", GOOD)
        assert done.returncode == 124
        assert f"{GOOD} has not taken its name" in done.stderr
        waiting = asyncio.create_task(verb(bus, "wait", GOOD))
        await bus.echo(GOOD)
        assert (await waiting).returncode == 0
        assert (await verb(bus, "wait", GOOD)).returncode == 0
        assert (await verb(bus, "wait", "no.such.Name")).returncode == 4


@pytest.mark.parametrize(
    ("member", "argument", "status"), [("Exit", 0, 0), ("Exit", 7, 7), ("Raise", 11, 139)]
)
async def test_wait_for_the_end(place: Place, member: str, argument: int, status: int) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        done = await verb(bus, "wait", "--for=exit", "--timeout=0.05", GOOD)
        assert done.returncode == 124
        waiting = asyncio.create_task(verb(bus, "wait", "--for=exit", GOOD))
        with pytest.raises(RemoteError):
            await bus.call(GOOD, member, "i", argument)
        assert (await waiting).returncode == status
        # It has ended already.
        assert (await verb(bus, "wait", "--for=exit", GOOD)).returncode == status


async def test_env(place: Place) -> None:
    describe(place)
    function = "() {  echo it\\'s $1\n}"
    async with place.serve() as bus:
        given = ["A=1", "B=2", f"BASH_FUNC_f%%={function}", "ESC=\x1b"]
        assert (await verb(bus, "env", *given, "--unset", "HOME")).returncode == 0
        found = (await verb(bus, "env")).stdout.splitlines()
        assert {"A=1", "B=2", "ESC=$'\\033'"} <= set(found)
        assert not [each for each in found if each.startswith("HOME=")]
        (line,) = [each for each in found if each.startswith("BASH_FUNC_f%%=")]
        shell = ["/bin/bash", "-c", f"printf %s {line.partition('=')[2]}"]
        assert place.user.run(shell).stdout == function
        shown = await answer(bus, "env")
        assert (shown["A"], shown["BASH_FUNC_f%%"]) == ("1", function)
        done = await verb(bus, "env", "nonsense")
        assert done.returncode == 1
        assert "'nonsense'" in done.stderr


async def test_reload(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        place.add("org.activation.Test.New")
        done = await verb(bus, "reload")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (await verb(bus, "start", "org.activation.Test.New")).returncode == 0
        bus.kill(signal.SIGTERM)
        await bus.ended()
        done = await verb(bus, "reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("dbus-activator: cannot connect to")


async def test_monitor(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        environ = place.environ(DBUS_SESSION_BUS_ADDRESS=bus.address)
        argv = [str(place.user.command), "monitor", "--json=short", GOOD, BAD]
        process = place.user.popen(argv, env=environ, stdout=-1, stderr=-1, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # It says so when it has subscribed.
            assert "monitoring" in await asyncio.to_thread(process.stderr.readline)
            await bus.echo(GOOD)
            await verb(bus, "start", BAD)
            await bus.echo(IDLE)
            await verb(bus, "kill", "-s", "KILL", GOOD)
            found: list[dict[str, Any]] = []
            while not found or (found[-1]["Service"], found[-1].get("SubState")) != (
                GOOD,
                "failed",
            ):
                found.append(json.loads(await asyncio.to_thread(process.stdout.readline)))
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait) == 0
        finally:
            process.kill()
            process.communicate()
        for event in found:
            jsonschema.validate(event, EVENT_SCHEMA)
        kinds = {
            name: [each["Event"] for each in found if each["Service"] == name]
            for name in (GOOD, BAD, IDLE)
        }
        assert kinds[IDLE] == []
        assert [each for each in kinds[GOOD] if each != "state"] == ["started", "exited"]
        assert [each for each in kinds[BAD] if each != "state"] == [
            "started",
            "exited",
            "activation-failed",
        ]
        times = [each["Time"] for each in found]
        assert times == sorted(times)


async def test_analyze(place: Place) -> None:
    describe(place)
    async with place.serve() as bus:
        await bus.echo(GOOD)
        await verb(bus, "start", BAD)
        await bus.state(BAD, "failed")
        found = await answer(bus, "analyze", "blame")
        jsonschema.validate(found, BLAME_SCHEMA)
        assert {each["Name"]: each["Result"] for each in found} == {
            GOOD: "success",
            BAD: "exit-code",
        }
        lines = (await verb(bus, "analyze", "blame")).stdout.splitlines()
        assert [line.split()[1] for line in lines] == [each["Name"] for each in found]
        picture = (await verb(bus, "analyze", "plot")).stdout
        assert GOOD in picture
        assert picture.endswith("</svg>\n")
        graph = (await verb(bus, "analyze", "dot")).stdout
        assert graph.startswith("digraph")
        assert f'[label="{GOOD}"' in graph


@pytest.mark.parametrize(
    "argv",
    [
        ["list"],
        ["status"],
        ["show", GOOD],
        ["ps"],
        ["start", GOOD],
        ["stop", GOOD],
        ["kill", GOOD],
        ["reset-failed"],
        ["reload"],
        ["wait", GOOD],
        ["monitor"],
        ["env"],
        ["analyze", "blame"],
        ["analyze", "plot"],
        ["analyze", "dot"],
    ],
    ids=" ".join,
)
async def test_where_there_is_no_broker(place: Place, argv: list[str]) -> None:
    where = f"unix:path={place.path}/none"
    done = await asyncio.to_thread(
        place.user.run, [place.user.command, *argv, f"--address={where}"], env=place.environ()
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dbus-activator: cannot connect to {where}: No such file or directory\n"
