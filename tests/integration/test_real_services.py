"""Services that distributions ship, under the plugin, asked by their own clients."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.testing import fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.testing import Bus

DCONF = "ca.desrt.dconf"
A11Y = "org.a11y.Bus"
DNSMASQ = "uk.org.thekelleys.dnsmasq"
PATH = "/uk/org/thekelleys/dnsmasq"


@pytest.fixture
def bus(
    engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bus]:
    """A bus by the plugin, on either engine."""
    yield from fixtures.opened(request, tmp_path_factory, {"engine": engine})


def client(bus: Bus, *argv: str) -> str:
    """Run a program on the bus; what it prints."""
    done = subprocess.run(
        argv, check=False, text=True, capture_output=True, env=dict(bus.env), timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.dbus_activator(installed=[DCONF])
def test_dconf_is_started_by_the_first_write(bus: Bus) -> None:
    assert client(bus, "dconf", "read", "/org/example/key") == ""
    bus.assert_not_activated(DCONF)  # reading needs no service
    client(bus, "dconf", "write", "/org/example/key", "'value'")
    bus.assert_activated(DCONF, times=1)
    assert client(bus, "dconf", "read", "/org/example/key") == "'value'\n"
    assert (Path(bus.env["XDG_CONFIG_HOME"]) / "dconf" / "user").exists()
    dconf = bus.service(DCONF)
    dconf.stop()
    assert (dconf.state, dconf.result) == ("inactive", "success")


@pytest.mark.dbus_activator(installed=[A11Y])
def test_the_accessibility_bus_has_a_bus_below_it(bus: Bus) -> None:
    address = client(
        bus,
        *("gdbus", "call", "--address", bus.address, "--dest", A11Y, "--object-path"),
        *("/org/a11y/bus", "--method", "org.a11y.Bus.GetAddress"),
    )
    # The second bus is a child of the first's service, with its socket in our directory.
    assert bus.env["XDG_RUNTIME_DIR"] in address
    service = bus.service(A11Y)
    assert [each.origin for each in service.processes] == ["spawned", "child"]
    assert bus.leaks() == []
    service.stop()
    assert not [each for each in service.processes if each.running]


def test_dnsmasq_daemonizes_and_stays_tracked(bus: Bus) -> None:
    # A service of the system's bus, which ours is for it.
    dnsmasq = bus.add_script(
        DNSMASQ,
        "export DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SESSION_BUS_ADDRESS PATH=$PATH:/usr/sbin\n"
        "exec dnsmasq --conf-file=/dev/null --port=0 --enable-dbus --user= --group= "
        "--pid-file=$XDG_RUNTIME_DIR/dnsmasq.pid\n",
    )
    call = ("busctl", f"--address={bus.address}", "call", DNSMASQ, PATH, DNSMASQ, "GetVersion")
    assert client(bus, *call).startswith('s "2.')
    bus.assert_activated(DNSMASQ, times=1)
    pid_file = Path(bus.env["XDG_RUNTIME_DIR"]) / "dnsmasq.pid"
    pid = int(pid_file.read_text())
    by_pid = {each.pid: each for each in dnsmasq.processes}
    assert (by_pid[pid].origin, by_pid[pid].running) == ("adopted", True)
    assert [each.returncode for each in by_pid.values() if each.origin == "spawned"] == [0]
    # It takes its name before it forks, so that its owner is a process which has gone.
    while dnsmasq.pid is not None:
        assert bus.wait(None)
    bus.assert_no_leaks(grace=0)
    # Whoever started it would be told nothing of its end.
    dnsmasq.kill(signal.SIGABRT)
    assert dnsmasq.wait(20) == 0
    assert {each.pid: each.returncode for each in dnsmasq.processes}[pid] == -signal.SIGABRT
    assert client(bus, *call).startswith('s "2.')
    bus.assert_activated(DNSMASQ, times=2)
