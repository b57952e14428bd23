"""The bus of a test, as its fixtures return it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from broker.catalog import catalog, descriptor
from broker.catalog.names import taken_with
from broker.client.client import is_back
from broker.client.events import Reader
from broker.errors import DBusError, DescriptorError, NoReply, RemoteError, ServiceUnknown
from broker.testing import calls, command, faulty, inline, survivors
from broker.testing.asked import Asked, named
from broker.testing.events import Event, typed
from broker.testing.host import Host
from broker.testing.service import Service, StartError, ended
from broker.testing.survivors import Survivors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.client.client import Client
    from broker.client.snapshot import Snapshot
    from broker.testing.settings import Settings
    from broker.testing.survivors import Survivor

E = TypeVar("E", bound=Event)

# In seconds: for answers that the broker gives at once. If it does not, it is stopped or hangs.
_PATIENCE: Final = 10.0
# As in every D-Bus library.
_CALL_TIMEOUT: Final = 25.0


class Bus:
    """A message bus of a test's own, with a broker that tracks its processes.

    Attributes:
        name: of the fixture.
        settings: its settings at the start.
        directory: the test's files: ``services``, ``home``, ``tmp``.
        address: for D-Bus libraries.
        env: for programs: the bus's address, and HOME, TMPDIR and XDG_* in ``directory``.
        engine: the message bus underneath, such as "dbus-broker 33".
        remote: the connection to the broker, for anything beyond this class.
        survivors: after the end, the processes that had outlived their service.
    """

    def __init__(
        self, name: str, settings: Settings, host: Host, remote: Client, node: Any
    ) -> None:
        self.name = name
        self.settings = settings
        self.directory = host.directory
        self.address = host.address
        self.env: Mapping[str, str] = host.env
        self.remote = remote
        self.node = node
        self.closed = False
        self.survivors: list[Survivor] = []
        # The source of the events and of a failure's report.
        self.news: list[dict[str, Any]] = []
        self.last: Snapshot | None = None
        self.logs: dict[str, list[str]] = {}
        self._host = host
        self._own: dict[str, Path] = {}
        remote.patience = _PATIENCE
        remote.subscribe()
        self._survivors = Survivors(remote, settings.ignore_leak)
        (rows,) = remote.ask("ListServiceStates")
        self._reader = Reader(rows)
        self.engine = str(remote.manager()["Engine"])

    @classmethod
    def open(cls, name: str, settings: Settings, directory: Path, *, root: Path, node: Any) -> Self:
        """Start a bus; returns when it is ready.

        Args:
            name: of the fixture.
            directory: an empty one, for the test's files.
            root: the base of relative paths in the settings.
            node: the bus's test, or another node of pytest's.

        Raises:
            Fault: it does not start.
            DescriptorError, ServiceUnknown: a descriptor of the settings cannot be used.
        """
        given = [root / each for each in settings.services]
        options = [
            f"--engine={settings.engine}",
            f"--activation-timeout={settings.activation_timeout}",
            f"--handover-timeout={settings.handover_timeout}",
            f"--stop-timeout={settings.stop_timeout}",
            # A test may make a service fail any number of times.
            "--start-limit=0",
            *(f"--services={each}" for each in given if not each.is_file()),
        ]
        with ExitStack() as undone:
            host = Host(options, directory, settings.environ, settings.stop_timeout)
            undone.callback(host.close)
            undone.callback(host.stop)
            remote = undone.enter_context(Asked.connect(host.address))
            bus = cls(name, settings, host, remote, node)
            for each in given:
                if each.is_file():
                    bus.add_service_file(each)
            for installed in settings.installed:
                bus.add_installed(installed)
            undone.pop_all()
        return bus

    def __repr__(self) -> str:
        return f"<Bus {self.name} {self.address}{' closed' * self.closed}>"

    # -- descriptors -----------------------------------------------------------

    def add_service(
        self,
        name: str,
        exec: Sequence[str | os.PathLike[str]],  # noqa: A002 - the descriptor's own word
    ) -> Service:
        """Make a name activatable; it is when this returns.

        Args:
            name: such as org.example.Greeter.
            exec: the command line, each argument verbatim. A program without a directory is
                looked up in PATH, and "python3" is the interpreter of the tests.

        Raises:
            DescriptorError: the descriptor would be invalid.
            FileNotFoundError: there is no such program in PATH.
            TypeError, ValueError: ``exec`` is not a list of words.
        """
        line = command.line(exec, self.env.get("PATH"))
        return self._add(name, f"[D-BUS Service]\nName={name}\nExec={line}\n".encode())

    def add_service_file(self, path: str | os.PathLike[str]) -> Service:
        """Add a descriptor, unchanged; raises DescriptorError with its file and line."""
        found = descriptor.read(os.fspath(path))
        return self._add(found.name, Path(path).read_bytes())

    def add_installed(self, name: str) -> Service:
        """Add the host's own descriptor of a name.

        Raises:
            ServiceUnknown: there is none in the session's standard directories.
        """
        found = catalog.load(catalog.standard_directories(os.environ)).entries.get(name)
        if found is None:
            raise ServiceUnknown(f"{name} is not installed: no descriptor provides it")
        return self.add_service_file(found.path)

    def add_function(self, name: str, function: Callable[..., None], *arguments: Any) -> Service:
        """Add a service that is a function of the test's.

        Its source text runs in a fresh interpreter: the function has its own imports, and
        uses no outside name but its arguments, which are values of JSON's types.

        Raises:
            ValueError: the function does not fulfil this.
        """
        path = self._write(f"{name}.py", inline.program(function, arguments))
        return self.add_service(name, [sys.executable, path])

    def add_script(self, name: str, text: str, interpreter: str = "/bin/sh") -> Service:
        """Add a service that is a script, for an interpreter."""
        return self.add_service(name, [interpreter, self._write(name, text)])

    def add_faulty(self, name: str, **fault: Any) -> Service:
        """Add a service that fails; it answers no method.

        ``fault`` is one of these:

        - ``exits=3``: exits with the status, before it takes its name
        - ``dies=signal.SIGSEGV``: ends by the signal, before it takes its name
        - ``hangs=True``: never takes its name
        - ``delay=0.5``: takes it after this time, in seconds
        - ``takes="org.example.Other"``: takes another name
        - ``daemonizes=True``: forks twice, then takes its name
        - ``forks_late=True``: takes its name, then forks twice
        - ``leaves_child=True``: takes its name, and leaves an orphan in a session of its own
        - ``drops_name=True``: takes its name, gives it up and stays
        - ``floods=100000``: writes this number of lines, then takes its name
        - ``missing=True``: its program does not exist

        Raises:
            TypeError: ``fault`` is none of these, or several.
        """
        known = [*faulty.FAULTS, "missing"]
        if len(fault) != 1 or not set(fault) <= set(known):
            raise TypeError(f"add_faulty takes one of {', '.join(known)}, not {sorted(fault)}")
        ((kind, value),) = fault.items()
        if kind == "missing":
            return self.add_service(name, [self.directory / "missing"])
        number = int(value) if kind in ("exits", "dies", "floods") else value
        return self.add_service(name, faulty.command(name, kind, number))

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def _add(self, name: str, data: bytes) -> Service:
        file = f"{name}.service"
        descriptor.parse(file, data)
        if why := taken_with(self.engine).get(name):
            raise DescriptorError(file, 0, descriptor.not_provided(name, why))
        path = self._own[name] = self._host.services / file
        path.write_bytes(data)
        self.reload()
        return self.service(name)

    def reload(self) -> None:
        """Reread the descriptors; when this returns, the bus knows them."""
        self.remote.ask("Reload")
        self.drain()  # so that earlier events get the current time

    # -- services --------------------------------------------------------------

    def service(self, name: str) -> Service:
        """A service by its name; raises RemoteError (ServiceUnknown) if there is none."""
        self.remote.ask("GetService", "s", name)
        return Service(name, self.remote, self.wait)

    def start(self, name: str, timeout: float | None = None) -> Service:
        """Activate a service, and wait until it has its name.

        Args:
            timeout: in seconds; None uses the setting ``activation_timeout``.

        Raises:
            StartError: the activation failed, with the reason; raised as soon as it is known.
        """
        __tracebackhide__ = True
        serial = self.remote.send("StartService", "s", name)
        return self.started(name, serial, timeout)

    def started(self, name: str, serial: int, timeout: float | None) -> Service:
        """The outcome of a sent call of StartService; see ``start``."""
        __tracebackhide__ = True
        try:
            self.remote.reply(serial, timeout)
        except RemoteError as e:
            if e.name == ServiceUnknown.dbus_name:
                raise
            raise self._not_started(name, e.name, str(e)) from None
        except NoReply:
            raise self.late(name, timeout) from None
        return Service(name, self.remote, self.wait)

    def late(self, name: str, timeout: float | None) -> StartError:
        """The error for a service without its name at the end of the test's own timeout."""
        text = f"has not taken its name within {timeout} s"
        return self._not_started(name, NoReply.dbus_name, text)

    def _not_started(self, name: str, error: str, text: str) -> StartError:
        service = Service(name, self.remote, self.wait)
        about = service.properties()
        return StartError(
            error,
            text,
            service=name,
            result="" if about["ActiveState"] == "activating" else about["Result"],
            returncode=ended(about),
            log=tuple(service.log),
        )

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        timeout: float | None = _CALL_TIMEOUT,
    ) -> list[Any]:
        """Call a method of any client on the bus, and return the values of its answer.

        Values are plain Python ones; a variant among the arguments is a pair of signature
        and value.

        Raises:
            RemoteError: the answer is an error, ``name`` is its name.
            NoReply: no answer came within ``timeout`` seconds.
            TypeError, ValueError: the call is not valid; the text names the argument.
        """
        __tracebackhide__ = True
        where = (destination, path, interface, member)
        calls.check(*where, signature, arguments)
        try:
            return self.remote.bus.call(*where, signature, *arguments, timeout=timeout)
        except RemoteError as e:
            raise named(e) from None

    def reset(self) -> None:
        """Make a shared bus as new for the next test, in some milliseconds.

        All services end; added descriptors, events and failures are forgotten. Leaked
        processes end, too, but stay recorded: in ``leaks``, until ``assert_no_leaks`` or the
        end of the bus reports them.
        """
        found = self._survivors.living(self.settings.leak_grace)
        (listed,) = self.remote.ask("ListServices")
        running = [name for name, _, state, _ in listed if state not in ("inactive", "failed")]
        for serial in [self.remote.send("StopService", "s", name) for name in running]:
            self.remote.reply(serial)
        for path in self._own.values():
            path.unlink(missing_ok=True)
        self._own.clear()
        self.reload()
        self.remote.ask("ResetFailed", "s", "")
        self._survivors.remember(found)
        self.drain()
        self.news.clear()

    # -- what happened ---------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """All events so far, in their order."""
        self.drain()
        return [event for each in self.news if (event := typed(each)) is not None]

    def wait_for(
        self, kind: type[E], service: str | None = None, timeout: float | None = None
    ) -> E:
        """Wait for the first event of a kind (and service), and return it.

        Raises:
            TimeoutError: it does not happen within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = 0
        while True:
            events = self.events
            for event in events[seen:]:
                if isinstance(event, kind) and service in (None, event.service):
                    return event
            seen = len(events)
            if not self.wait(deadline):
                whose = f" of {service}" if service else ""
                raise TimeoutError(f"no {kind.__name__}{whose} within {timeout} s")

    def wait(self, deadline: float | None) -> bool:
        """Wait for the next event; False if none came by the deadline (monotonic clock)."""
        signal = self.remote.signal(deadline)
        if signal is None:
            return False
        if is_back(signal):
            (rows,) = self.remote.ask("ListServiceStates")
            self.news += self._reader.resume(rows)
        else:
            self.news += self._reader.events(signal)
        return True

    def drain(self) -> None:
        """Read all events that have arrived."""
        while self.wait(0):
            pass

    def leaks(self, grace: float = 0.0) -> list[Survivor]:
        """Leaked processes: they outlived their service and live, or were ended by ``reset``.

        Args:
            grace: the time for a process to end by itself, in seconds.
        """
        return self._survivors.find(grace)

    # -- assertions ------------------------------------------------------------

    def assert_activated(self, name: str, times: int | None = None) -> None:
        """The service was activated: at least once, or exactly ``times``."""
        __tracebackhide__ = True
        count = self.service(name).activations
        wanted = "" if times is None else f" {times} times"
        if count != times if times is not None else not count:
            raise AssertionError(f"{name} was activated {count} times, not{wanted or ' once'}")

    def assert_not_activated(self, name: str) -> None:
        """The service was never activated."""
        __tracebackhide__ = True
        count = self.service(name).activations
        if count:
            raise AssertionError(f"{name} was activated {count} times")

    def assert_no_leaks(self, grace: float | None = None) -> None:
        """No process outlived its service; the default of ``grace`` is the setting."""
        __tracebackhide__ = True
        found = self.leaks(self.settings.leak_grace if grace is None else grace)
        self._survivors.told()
        if found:
            raise AssertionError(survivors.text(found))

    # -- the end ---------------------------------------------------------------

    @property
    def complaints(self) -> str:
        """The broker's standard error."""
        return self._complaints if self.closed else self._host.complaints()

    def look(self) -> Snapshot:
        """The state now, or at the end: services, processes, logs, events.

        Raises:
            DBusError: the broker does not answer.
        """
        if not self.closed:
            self.last = self.remote.snapshot()
            for about in self.last.services.values():
                if about["NActivations"]:
                    self.logs[about["Name"]] = Service(about["Name"], self.remote, self.wait).log
            self.drain()
        if self.last is None:
            raise NoReply("the broker had ended before it could be asked")
        return self.last

    def close(self) -> str:
        """End the bus and everything on it; the fixtures do.

        Returns:
            the error of the bus itself, or an empty text.
        """
        problem = ""
        try:
            self.survivors = self.leaks(self.settings.leak_grace)
            self.look()
        except DBusError as e:
            problem = f"the broker does not answer any longer: {e}"
            if self._host.status is not None:
                problem += f" (it has ended with status {self._host.status})"
        finally:
            self.remote.bus.close()
            self._host.stop()
            self._complaints = self._host.complaints()
            self._host.close()
            self.closed = True
        return f"{problem}\n{self._complaints}".strip() if problem else ""
