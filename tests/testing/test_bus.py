"""The bus that tests are given: descriptors, services, calls, events, assertions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from broker.errors import DescriptorError, NoReply, NotRunning, RemoteError, ServiceUnknown
from broker.testing import (
    ActivationFailed,
    Bus,
    ProcessExited,
    ProcessStarted,
    ServiceAdded,
    ServiceRemoved,
    StartError,
    StateChanged,
)
from broker.testing.settings import Settings

NAME = "org.example.One"
PROPERTIES = "org.freedesktop.DBus.Properties"
BROKER = ("org.activation.Broker1", "/org/activation/Broker1")


def greeter(name: str, words: list[str]) -> None:
    """As a service: answers with what it was given."""
    import asyncio
    import os
    import sys

    from broker.bus import address
    from broker.bus.codec import Message
    from broker.bus.connection import Connection

    async def main() -> None:
        bus = await Connection.to_bus(address.connect(address.default(os.environ)))

        def answer(call: Message) -> None:
            bus.send(Message.new_method_return(call, "as", [[*words, *call.body]]))

        bus.on_message = lambda message: answer(message) if message.member == "Greet" else None
        await bus.call_bus("RequestName", "su", [name, 4])
        await bus.wait_closed()

    sys.stderr.write("at your service\n")
    asyncio.run(main())


# -- descriptors -------------------------------------------------------------------------


def test_a_mock_of_systemd_where_the_engine_leaves_its_name_free(bus: Bus) -> None:
    systemd = "org.freedesktop.systemd1"
    if bus.engine.startswith("dbus-daemon"):
        with pytest.raises(DescriptorError, match="with dbus-daemon the broker owns it"):
            bus.add_function(systemd, greeter, systemd, [])
    else:
        bus.add_function(systemd, greeter, systemd, ["mocked"])
        assert bus.call(systemd, "/", systemd, "Greet") == [["mocked"]]


def test_nothing_is_activatable_but_what_was_added(bus: Bus) -> None:
    assert bus.remote.call("ListServices") == [[]]
    bus.add_faulty(NAME, daemonizes=True)
    assert [each[0] for each in bus.remote.call("ListServices")[0]] == [NAME]


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "a b",
        "it's",
        'a"b',
        "back\\slash",
        "\\n",
        "new\nline",
        "$HOME",
        "#",
        "%s",
        "é",
        "\t",
    ],
)
def test_arguments_arrive_as_they_are(bus: Bus, argument: str) -> None:
    service = bus.add_service(NAME, exec=["/bin/sh", "-c", 'printf "<%s>" "$@"', "sh", argument])
    with pytest.raises(StartError):
        bus.start(NAME)
    assert "\n".join(service.log) == f"<{argument}>"
    assert service.properties()["ExecStart"][-1] == argument


def test_a_program_is_looked_for_in_path(bus: Bus, tmp_path: Path) -> None:
    service = bus.add_service(NAME, exec=["sh", "-c", "exit 4"])
    assert Path(service.properties()["ExecStart"][0]).name == "sh"
    with pytest.raises(FileNotFoundError, match="no program 'no-such-program' in PATH"):
        bus.add_service(NAME, exec=["no-such-program"])
    with pytest.raises(DescriptorError, match="Name"):
        bus.add_service("no name", exec=["sh"])
    bus.add_service("org.example.Two", exec=[tmp_path / "missing"])
    with pytest.raises(StartError) as caught:
        bus.start("org.example.Two")
    assert caught.value.result == "exec-failed"


def test_a_descriptor_of_a_file(bus: Bus, tmp_path: Path) -> None:
    path = tmp_path / "any.service"
    path.write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/sh -c 'exit 5'\n")
    assert bus.add_service_file(path).name == NAME
    path.write_text(f"[D-BUS Service]\nName={NAME}\nExec='\n")
    with pytest.raises(DescriptorError, match=r"any\.service:3: unclosed single quote"):
        bus.add_service_file(path)


def test_a_descriptor_of_the_host(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "dbus-1" / "services"
    services.mkdir(parents=True)
    (services / "x.service").write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/false\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert bus.add_installed(NAME).properties()["ExecStart"] == ["/bin/false"]
    with pytest.raises(ServiceUnknown, match=r"org\.example\.Absent is not installed"):
        bus.add_installed("org.example.Absent")


def test_a_bus_that_cannot_be_had_leaves_no_descriptor_open(tmp_path: Path) -> None:
    # One that is left is closed with a warning, in whatever test is running by then.
    before = os.listdir("/proc/self/fd")
    settings = Settings(installed=["org.example.Absent"])
    with pytest.raises(ServiceUnknown) as caught:
        Bus.open("bus", settings, tmp_path, root=tmp_path, node=None)
    assert os.listdir("/proc/self/fd") == before
    # Until here its traceback has kept alive whatever was forgotten.
    assert "Absent" in str(caught.value)


def test_an_added_service_can_be_called_at_once(bus: Bus) -> None:
    # Without the answer of Reload, some of these would not be known yet.
    for number in range(30):
        name = f"org.example.Number{number}"
        bus.add_service(name, exec=["/bin/sh", "-c", f"exit {number + 1}"])
        with pytest.raises(RemoteError) as caught:
            bus.call(name, "/", "org.example", "Any")
        assert caught.value.name != "org.freedesktop.DBus.Error.ServiceUnknown"
        assert bus.service(name).returncode == number + 1


# -- services in the test's own file -----------------------------------------------------


def test_a_function_is_a_service(bus: Bus) -> None:
    service = bus.add_function(NAME, greeter, NAME, ["hello,"])
    bus.start(NAME)
    assert bus.call(NAME, "/", "org.example", "Greet", "s", "you") == [["hello,", "you"]]
    assert service.log == ["at your service"]
    assert service.pid != os.getpid()


def test_what_a_function_needs_from_outside_is_named(bus: Bus) -> None:
    inside = "x"

    def closure() -> None:
        str(inside)

    def uses_globals() -> None:
        str((NAME, signal.SIGTERM))

    with pytest.raises(ValueError, match=r"closure\(\) runs in .* which has no inside: import"):
        bus.add_function(NAME, closure)
    with pytest.raises(ValueError, match="which has no NAME and no signal"):
        bus.add_function(NAME, uses_globals)
    with pytest.raises(ValueError, match="a function with a name"):
        bus.add_function(NAME, lambda: None)
    with pytest.raises(ValueError, match="an argument cannot be passed"):
        bus.add_function(NAME, greeter, NAME, object())


def test_a_script_is_a_service(bus: Bus) -> None:
    bus.add_script(NAME, "echo one\necho two >&2\nexit 7\n")
    with pytest.raises(StartError) as caught:
        bus.start(NAME)
    error = caught.value
    assert (error.service, error.returncode, error.result) == (NAME, 7, "exit-code")
    assert sorted(error.log) == ["one", "two"]
    assert error.name == "org.freedesktop.DBus.Error.Spawn.ChildExited"
    assert "exited with status 7, result exit-code" in str(error)
    assert "    one\n" in f"{error}\n"
    bus.add_script("org.example.Python", "import sys\nsys.exit(8)\n", interpreter="python3")
    with pytest.raises(StartError, match="status 8"):
        bus.start("org.example.Python")


# -- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 255])
def test_a_service_that_exits(bus: Bus, status: int) -> None:
    bus.add_faulty(NAME, exits=status)
    with pytest.raises(StartError) as caught:
        bus.start(NAME)
    wanted = "exit-code" if status else "protocol"
    assert (caught.value.returncode, caught.value.result) == (status, wanted)


def test_a_service_fails_as_often_as_a_test_has_it_fail(bus: Bus) -> None:
    bus.add_script(NAME, "exit 1\n")
    for _ in range(6):
        with pytest.raises(StartError) as caught:
            bus.start(NAME)
        assert caught.value.result == "exit-code"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_service_that_dies(bus: Bus, number: signal.Signals) -> None:
    service = bus.add_faulty(NAME, dies=number)
    with pytest.raises(StartError, match=f"ended by {number.name}, result signal"):
        bus.start(NAME)
    assert service.returncode == -number


def test_a_service_that_hangs(bus: Bus) -> None:
    service = bus.add_faulty(NAME, hangs=True)
    with pytest.raises(StartError, match=r"has not taken its name within 0\.2 s") as caught:
        bus.start(NAME, timeout=0.2)
    assert (caught.value.result, service.state) == ("", "activating")
    service.stop()
    assert service.returncode == -signal.SIGTERM


@pytest.mark.dbus_activator(activation_timeout=0.3)
def test_a_service_that_is_too_slow(bus: Bus) -> None:
    bus.add_faulty(NAME, delay=30)
    with pytest.raises(StartError) as caught:
        bus.start(NAME)
    assert caught.value.result == "timeout"


def test_a_service_that_is_slow(bus: Bus) -> None:
    bus.add_faulty(NAME, delay=0.4)
    assert bus.start(NAME).properties()["ActivationUSec"] >= 400_000


@pytest.mark.dbus_activator(activation_timeout=2, leaks="kill")
def test_a_service_that_takes_another_name(bus: Bus) -> None:
    bus.add_faulty(NAME, takes="org.example.Other")
    with pytest.raises(StartError) as caught:
        bus.start(NAME)
    assert caught.value.result == "timeout"


def test_a_service_that_daemonizes(bus: Bus) -> None:
    service = bus.add_faulty(NAME, daemonizes=True)
    bus.start(NAME)
    by_pid = {each.pid: each for each in service.processes}
    assert service.pid is not None
    assert by_pid[service.pid].origin == "adopted"
    assert by_pid[service.pid].running
    assert [each.returncode for each in by_pid.values() if each.origin == "spawned"] == [0]


def test_a_service_that_daemonizes_with_its_name(bus: Bus) -> None:
    service = bus.add_faulty(NAME, forks_late=True)
    bus.start(NAME)
    while sum(isinstance(each, ProcessExited) for each in bus.events) < 2:
        assert bus.wait(None)
    assert service.pid is None
    # The process that took the name has gone, and who has its connection cannot be told.
    assert service.sub_state == "running"
    (live,) = [each for each in service.processes if each.running]
    assert live.origin == "adopted"
    bus.assert_no_leaks(grace=0)
    service.kill(signal.SIGTERM)
    assert service.wait(20) == 0


@pytest.mark.dbus_activator(leaks="kill")
def test_a_service_that_leaves_a_child(bus: Bus) -> None:
    bus.add_faulty(NAME, leaves_child=True)
    service = bus.start(NAME)
    (leak,) = bus.leaks()
    assert (leak.service, leak.adopted, leak.names) == (NAME, True, ())
    assert leak.pid in [each.pid for each in service.processes]
    with pytest.raises(AssertionError, match=rf"1 process outlived .*\n  {NAME}  pid {leak.pid}"):
        bus.assert_no_leaks(grace=0)


@pytest.mark.dbus_activator(leaks="kill")
def test_a_service_that_drops_its_name(bus: Bus) -> None:
    bus.add_faulty(NAME, drops_name=True)
    bus.start(NAME)
    service = bus.service(NAME)
    while service.sub_state != "lingering":
        assert bus.wait(None)
    assert [leak.service for leak in bus.leaks()] == [NAME]


def test_a_service_that_floods(bus: Bus) -> None:
    service = bus.add_faulty(NAME, floods=20_000)
    bus.start(NAME)
    assert service.state == "active"
    assert 100 < len(service.log) <= 4096


def test_a_service_without_a_program(bus: Bus) -> None:
    bus.add_faulty(NAME, missing=True)
    with pytest.raises(StartError) as caught:
        bus.start(NAME)
    assert (caught.value.result, caught.value.returncode) == ("exec-failed", None)


@pytest.mark.parametrize("fault", [{}, {"exits": 1, "hangs": True}, {"no": 1}])
def test_one_fault_at_a_time(bus: Bus, fault: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="add_faulty takes one of exits, dies, hangs"):
        bus.add_faulty(NAME, **fault)


# -- a service's life --------------------------------------------------------------------


def test_a_service_from_its_start_to_its_end(bus: Bus) -> None:
    service = bus.add_faulty(NAME, delay=0)
    assert (service.state, service.sub_state, service.result) == ("inactive", "dead", "success")
    assert (service.pid, service.returncode, service.processes) == (None, None, [])
    with pytest.raises(NotRunning, match="has not been started"):
        service.wait()
    with pytest.raises(RemoteError, match="has no process"):
        service.kill()
    assert bus.start(NAME).name == NAME
    (process,) = service.processes
    assert (process.pid, process.origin, process.running) == (service.pid, "spawned", True)
    assert process.command[-3:] == (NAME, "delay", "0")
    with pytest.raises(TimeoutError, match=rf"{NAME} is still active \(0.1 s\)"):
        service.wait(0.1)
    service.kill(signal.SIGUSR1, whom="main")
    assert service.wait(20) == -signal.SIGUSR1
    assert (service.state, service.result, service.returncode) == ("failed", "signal", -10)
    (process,) = service.processes
    assert (process.returncode, process.running) == (-10, False)
    bus.start(NAME)
    service.stop()
    assert (service.state, service.returncode, service.activations) == ("inactive", -15, 2)


def test_a_child_that_a_service_waits_for_itself(bus: Bus) -> None:
    service = bus.add_script(NAME, "sleep 1000 & echo $!; wait")
    with pytest.raises(StartError):
        bus.start(NAME, timeout=0.5)
    child = int(service.log[0])
    assert {each.pid: each.origin for each in service.processes}[child] == "child"
    service.stop()


def test_unknown_names_are_errors(bus: Bus) -> None:
    for ask in (bus.service, bus.start, bus.assert_activated, bus.assert_not_activated):
        with pytest.raises(RemoteError, match=r"not provided by any \.service files"):
            ask("org.example.Absent")


# -- calls -------------------------------------------------------------------------------


def test_calls_and_their_errors(bus: Bus) -> None:
    (engine,) = bus.call(*BROKER, PROPERTIES, "Get", "ss", f"{BROKER[0]}.Manager", "Engine")
    assert engine == bus.engine
    with pytest.raises(RemoteError) as caught:
        # A variant is written as a pair; the answer is about the property, not the message.
        bus.call(*BROKER, PROPERTIES, "Set", "ssv", f"{BROKER[0]}.Manager", "Engine", ("as", ["x"]))
    assert caught.value.name == "org.freedesktop.DBus.Error.PropertyReadOnly"
    service = bus.add_faulty(NAME, hangs=True)
    with pytest.raises(NoReply, match=r"no answer within 0\.2 s"):
        bus.call(NAME, "/", "org.example", "Any", timeout=0.2)
    service.stop()


# -- what happened -----------------------------------------------------------------------


def test_events_in_their_order(bus: Bus) -> None:
    bus.add_faulty(NAME, exits=3)
    with pytest.raises(StartError):
        bus.start(NAME)
    added, started, *between, exited, failed, state = bus.events
    assert isinstance(added, ServiceAdded)
    assert isinstance(started, ProcessStarted)
    assert isinstance(exited, ProcessExited)
    assert isinstance(failed, ActivationFailed)
    assert isinstance(state, StateChanged)
    assert {each.service for each in bus.events} == {NAME}
    assert all(isinstance(each, StateChanged) for each in between)
    assert (started.origin, exited.pid, exited.returncode) == ("spawned", started.pid, 3)
    assert "exits 3" in started.command
    assert (failed.result, failed.error.split(".")[-1]) == ("exit-code", "ChildExited")
    assert (state.state, state.sub_state, state.result) == ("failed", "failed", "exit-code")
    times = [each.time for each in bus.events]
    assert times == sorted(times)
    # They are read late, and still have their own times.
    assert state.time - started.time < bus.service(NAME).properties()["ActivationUSec"] + 20
    with pytest.raises(AttributeError):
        exited.pid = 1  # type: ignore[misc]


def test_waiting_for_an_event(bus: Bus) -> None:
    service = bus.add_faulty(NAME, delay=0)
    bus.start(NAME)
    service.kill(signal.SIGKILL)
    assert bus.wait_for(ProcessExited, NAME, timeout=20).returncode == -9
    assert bus.wait_for(ProcessExited, NAME).returncode == -9  # one that has been counts
    with pytest.raises(TimeoutError, match=f"no ServiceRemoved of {NAME} within 0.1 s"):
        bus.wait_for(ServiceRemoved, NAME, timeout=0.1)


def test_assertions_of_activations(bus: Bus) -> None:
    bus.add_faulty(NAME, delay=0)
    bus.assert_not_activated(NAME)
    with pytest.raises(AssertionError, match=rf"{NAME} was activated 0 times, not once"):
        bus.assert_activated(NAME)
    bus.start(NAME)
    bus.assert_activated(NAME)
    bus.assert_activated(NAME, times=1)
    with pytest.raises(AssertionError, match=rf"{NAME} was activated 1 times, not 2 times"):
        bus.assert_activated(NAME, times=2)
    with pytest.raises(AssertionError, match=rf"{NAME} was activated 1 times"):
        bus.assert_not_activated(NAME)
    bus.assert_no_leaks()


def test_a_reset_bus_is_as_new(bus: Bus) -> None:
    bus.add_faulty(NAME, daemonizes=True)
    bus.add_faulty("org.example.Two", exits=1)
    bus.start(NAME)
    with pytest.raises(StartError):
        bus.start("org.example.Two")
    bus.reset()
    assert bus.events == []
    assert bus.remote.call("ListServices") == [[]]
    bus.add_faulty(NAME, daemonizes=True)
    bus.start(NAME)


# -- where it runs -----------------------------------------------------------------------


@pytest.mark.dbus_activator(environ={"GSETTINGS_BACKEND": "dconf", "OWN": "x"})
def test_the_environment_leads_nowhere_out(bus: Bus) -> None:
    before = dict(os.environ)
    service = bus.add_script(NAME, "env; exit 1")
    with pytest.raises(StartError):
        bus.start(NAME)
    found = dict(line.split("=", 1) for line in service.log if "=" in line)
    for environ in (found, bus.env):
        for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
            assert Path(environ[name]).is_relative_to(bus.directory)
        assert Path(environ["XDG_RUNTIME_DIR"], "bus").is_socket()
        assert len(environ["XDG_RUNTIME_DIR"]) < 70
        assert environ["DBUS_SESSION_BUS_ADDRESS"] == bus.address
        assert (environ["NO_AT_BRIDGE"], environ["GTK_A11Y"]) == ("1", "none")
        assert (environ["GSETTINGS_BACKEND"], environ["OWN"]) == ("dconf", "x")
    assert dict(os.environ) == before
