"""The settings of a bus for tests, and their sources.

Each setting can be an argument of the marker or the factory, an option of the command line,
or a line of the ini file, in this order of precedence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MARKER: Final = "dbus_activator"
LEAKS: Final = ("fail", "warn", "kill")
ENGINES: Final = ("auto", "dbus-broker", "dbus-daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one bus; times in seconds.

    Attributes:
        engine: auto, dbus-broker or dbus-daemon.
        services: directories of descriptors, and single descriptors; relative to pytest's
            root directory. There are no others, unlike on a session's bus.
        installed: names with the host's own descriptors.
        environ: variables for the services and the bus's ``env``, beside the isolated ones.
        leaks: fail, warn or kill: the treatment of a test with leaked processes.
        leak_grace: for a process to end by itself after the test.
        ignore_leak: patterns; a process is no leak if its program's base name matches. For a
            script, that is its interpreter's: the base name of the executed file.
        activation_timeout: for a service to take its name.
        handover_timeout: for another process to take the name when all processes of the
            service have exited with 0.
        stop_timeout: from SIGTERM to SIGKILL.
        artifacts: the directory for timelines and events of failed tests, relative to pytest's
            working directory; None for the test's own temporary directory.
    """

    engine: str = "auto"
    services: Sequence[str | Path] = ()
    installed: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    leaks: str = "fail"
    leak_grace: float = 0.5
    ignore_leak: Sequence[str] = ()
    activation_timeout: float = 25.0
    handover_timeout: float = 0.5
    stop_timeout: float = 5.0
    artifacts: Path | None = None

    def __post_init__(self) -> None:
        for name in ("leak_grace", "activation_timeout", "handover_timeout", "stop_timeout"):
            seconds = getattr(self, name)
            # Of nan, no comparison is true.
            if not isinstance(seconds, int | float) or not seconds >= 0:
                raise pytest.UsageError(
                    f"dbus_activator_{name}: {seconds!r} is not a number of seconds"
                )
        _check_choice("engine", self.engine, ENGINES)
        _check_choice("leaks", self.leaks, LEAKS)
        for name in ("services", "installed"):
            if isinstance(getattr(self, name), str | Path):  # its letters would be taken
                raise pytest.UsageError(
                    f"dbus_activator_{name}: expected a list, not {getattr(self, name)!r}"
                )
        if not isinstance(self.environ, Mapping):
            raise pytest.UsageError(
                f"dbus_activator_environ: expected a dictionary, not {self.environ!r}"
            )


@dataclass(frozen=True, slots=True)
class _Option:
    """A setting on the command line and in the ini file: text, one or several."""

    read: Callable[[Any], Any]
    help: str
    metavar: str
    several: bool = False


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise pytest.UsageError(
            f"dbus_activator_{name}: {value!r} is not one of {', '.join(choices)}"
        )


def _assignments(lines: Sequence[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not (name and equals):
            raise pytest.UsageError(f"dbus_activator_environ: {line!r} is not NAME=value")
        found[name] = value
    return found


_OPTIONS: Final[dict[str, _Option]] = {
    "engine": _Option(str, f"The message bus underneath: {', '.join(ENGINES)}.", "ENGINE"),
    "services": _Option(tuple, "Directory of descriptors, or a descriptor.", "PATH", several=True),
    "installed": _Option(tuple, "A service of the host's, by its name.", "NAME", several=True),
    "environ": _Option(_assignments, "A variable for the services.", "NAME=VALUE", several=True),
    "leaks": _Option(
        str, "Treatment of processes that outlive their services: fail, warn, kill.", "WHAT"
    ),
    "leak_grace": _Option(float, "Seconds for processes to end by themselves.", "S"),
    "ignore_leak": _Option(
        tuple, "Ignore processes by their program's base name.", "PATTERN", several=True
    ),
    "activation_timeout": _Option(float, "Seconds for a service to take its name.", "S"),
    "handover_timeout": _Option(
        float, "Seconds for a name to be taken when its processes have ended with 0.", "S"
    ),
    "stop_timeout": _Option(float, "Seconds from SIGTERM to SIGKILL.", "S"),
    "artifacts": _Option(Path, "Directory for timelines and events of failed tests.", "DIR"),
}


def add_options(parser: pytest.Parser) -> None:
    """Register the options and the lines of the ini file with pytest."""
    group = parser.getgroup("dbus-activator", "D-Bus services under test (dbus-activator)")
    for name, option in _OPTIONS.items():
        group.addoption(
            f"--dbus-activator-{name.replace('_', '-')}",
            dest=f"dbus_activator_{name}",
            action="append" if option.several else "store",
            metavar=option.metavar,
            help=f"{option.help}{' May be repeated.' if option.several else ''}",
        )
        if option.several:
            parser.addini(f"dbus_activator_{name}", option.help, type="linelist", default=[])
        else:
            parser.addini(f"dbus_activator_{name}", option.help, type="string", default="")


def of_config(config: pytest.Config) -> Settings:
    """The settings of the ini file and the command line.

    Raises:
        pytest.UsageError: one of them is invalid.
    """
    found = {}
    for name, option in _OPTIONS.items():
        text = config.getoption(f"dbus_activator_{name}") or config.getini(f"dbus_activator_{name}")
        if text:
            try:
                found[name] = option.read(text)
            except ValueError as e:
                raise pytest.UsageError(f"dbus_activator_{name}: {e}") from e
    return Settings(**found)


def of_request(request: pytest.FixtureRequest, factory: Mapping[str, Any]) -> Settings:
    """The settings of a fixture; ``factory`` has the arguments of its factory.

    Raises:
        pytest.UsageError: a setting is invalid, or does not exist.
    """
    settings = changed(of_config(request.config), factory)
    # The outermost first, so that the test's own marker has precedence.
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        if marker.args:
            raise pytest.UsageError(f"the marker {MARKER} takes named arguments: {marker.args}")
        settings = changed(settings, marker.kwargs)
    return settings


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """A copy with some settings replaced; raises pytest.UsageError."""
    known = {each.name for each in fields(Settings)}
    for name in changes:
        if name not in known:
            raise pytest.UsageError(
                f"{MARKER} has no setting {name!r}; there are {', '.join(sorted(known))}"
            )
    return replace(settings, **changes)
