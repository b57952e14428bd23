"""dbus-daemon's configuration file (``busconfig``): the settings that a launcher needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn
from xml.etree import ElementTree as ET
from xml.parsers import expat

from broker.core.digits import decimal
from broker.core.printable import printable, quoted
from broker.errors import BadConfiguration

from .catalog import Directory, standard_directories, standard_system_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Elements for a daemon that drops privileges, and settings that the engines decide themselves.
_IGNORED: Final = {
    "allow_anonymous",
    "apparmor",
    "auth",
    "keep_umask",
    "selinux",
    "servicehelper",
    "syslog",
}
_WITH_TEXT: Final = {
    "include",
    "includedir",
    "limit",
    "listen",
    "pidfile",
    "servicedir",
    "type",
    "user",
}
_KINDS: Final = ("session", "system")
# dbus-daemon exits on any other attribute or limit, and does not name the file.
_POLICY_ATTRIBUTES: Final = ("context", "user", "group", "at_console")
_CONTEXTS: Final = ("default", "mandatory")
_RULE_ATTRIBUTES: Final = {
    "eavesdrop",
    "group",
    "log",
    "max_fds",
    "min_fds",
    "own",
    "own_prefix",
    "receive_error",
    "receive_interface",
    "receive_member",
    "receive_path",
    "receive_requested_reply",
    "receive_sender",
    "receive_type",
    "send_broadcast",
    "send_destination",
    "send_destination_prefix",
    "send_error",
    "send_interface",
    "send_member",
    "send_path",
    "send_requested_reply",
    "send_type",
    "user",
}
_LIMITS: Final = {
    "auth_timeout",
    "max_completed_connections",
    "max_connections_per_container",
    "max_connections_per_user",
    "max_container_metadata_bytes",
    "max_containers",
    "max_containers_per_user",
    "max_incoming_bytes",
    "max_incoming_unix_fds",
    "max_incomplete_connections",
    "max_match_rules_per_connection",
    "max_message_size",
    "max_message_unix_fds",
    "max_names_per_connection",
    "max_outgoing_bytes",
    "max_outgoing_unix_fds",
    "max_pending_service_starts",
    "max_replies_per_connection",
    "pending_fd_timeout",
    "reply_timeout",
    "service_start_timeout",
}
_LARGEST_LIMIT: Final = 2**31 - 1
# The rules that make a bus as open as our own policy: dbus-daemon forbids everything by default.
_OPEN: Final = {"own", "send", "receive"}
# Files that each include the other twice would be read practically for ever.
_MOST_FILES: Final = 1000
_DEEPEST: Final = 30


@dataclass(slots=True)
class BusConfig:
    """The settings of a file and its includes, in the order of the text.

    Attributes:
        kind: ``session`` or ``system``, from ``<type>``; empty without one.
        listen: addresses, each with FILE:LINE.
        pidfile: an absolute path, or empty.
        policy: ``<policy>`` elements as text, for dbus-daemon.
        restricts: FILE:LINE of the first rule that forbids something, or lets other users in:
            dbus-broker is not given such rules. Empty for none.
        limits: by name, in dbus-daemon's units.
        problems: elements that were skipped as unknown or invalid, FILE:LINE first.
    """

    kind: str = ""
    listen: list[tuple[str, str]] = field(default_factory=list)
    directories: list[Directory] = field(default_factory=list)
    pidfile: str = ""
    fork: bool = False
    policy: list[str] = field(default_factory=list)
    restricts: str = ""
    limits: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load(path: str, environ: Mapping[str, str]) -> BusConfig:
    """Reads a configuration file.

    Args:
        environ: for the standard directories.

    Raises:
        BadConfiguration: the file, or a required include, cannot be read or is not a busconfig.
    """
    reading = _Reading(environ)
    _File(os.path.abspath(path), reading, "", ()).read()
    found = reading.found
    if found.policy and not reading.opened >= _OPEN:
        found.restricts = found.restricts or reading.first_policy
    return found


@dataclass(slots=True)
class _Reading:
    """State shared by a file and its includes."""

    environ: Mapping[str, str]
    found: BusConfig = field(default_factory=BusConfig)
    files: int = 0
    opened: set[str] = field(default_factory=set)
    first_policy: str = ""


class _File:
    """One file; ``why`` is the place of its include, ``including`` the chain of files to it."""

    def __init__(self, path: str, reading: _Reading, why: str, including: tuple[str, ...]) -> None:
        self._path = path
        self._reading = reading
        self._found = reading.found
        self._why = why
        # Resolved, since symbolic links give a file any number of names.
        self._including = (*including, os.path.realpath(path))
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._stack: list[str] = []
        self._attributes: dict[str, str] = {}
        self._text: list[str] = []
        self._line = 0
        self._policy = ""
        self._rules: list[str] = []

    def read(self) -> None:
        """Read the whole file.

        Raises:
            BadConfiguration: as ``load``.
        """
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        self._parser.SkippedEntityHandler = self._entity
        self._reading.files += 1
        if self._reading.files > _MOST_FILES or len(self._including) > _DEEPEST:
            raise BadConfiguration(f"{self._why}too many files include each other")
        try:
            with open(self._path, "rb") as file:
                self._parser.ParseFile(file)
        except OSError as e:
            raise BadConfiguration(f"{self._why}{printable(self._path)}: {e.strerror}") from e
        except expat.ExpatError as e:
            raise BadConfiguration(f"{self._where(e.lineno)}: {expat.ErrorString(e.code)}") from e
        except (LookupError, ValueError) as e:
            # From the encoding that the file declares.
            raise BadConfiguration(f"{self._where(1)}: {printable(str(e))}") from e

    def _where(self, line: int) -> str:
        return f"{printable(self._path)}:{line}"

    def _problem(self, line: int, text: str) -> None:
        self._found.problems.append(f"{self._where(line)}: {text}")

    def _refuse(self, line: int, text: str) -> NoReturn:
        """Skipping part of a policy would allow what its author forbade: refuse the file."""
        raise BadConfiguration(f"{self._where(line)}: {text}")

    # -- expat's events --------------------------------------------------------

    def _entity(self, *_: object) -> None:
        # Useless here, and a few lines of them expand to gigabytes.
        line = self._parser.CurrentLineNumber
        raise BadConfiguration(f"{self._where(line)}: entities are not allowed")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._stack and name != "busconfig":
            raise BadConfiguration(f"{self._where(line)}: <{printable(name)}> is not <busconfig>")
        self._stack.append(name)
        match self._stack:
            case [_]:
                pass
            case [_, _]:
                self._text, self._attributes, self._line = [], attributes, line
                if name == "policy":
                    self._start_policy(line, attributes)
            case [_, "policy", "allow" | "deny"]:
                self._rule(line, name, attributes)
            case [_, "policy", *_]:
                self._refuse(line, f"<{printable(name)}> in a <policy>")
            case [_, "selinux", _]:
                pass
            case [*_, parent, _]:
                self._problem(line, f"<{printable(name)}> in <{printable(parent)}> is not used")

    def _characters(self, text: str) -> None:
        if len(self._stack) == 2:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._stack.pop()
        if self._stack == ["busconfig"]:
            if name == "policy":
                self._end_policy()
            else:
                self._element(name, "".join(self._text).strip())

    # -- policy ----------------------------------------------------------------

    def _start_policy(self, line: int, attributes: Mapping[str, str]) -> None:
        self._policy, self._rules = _tag("policy", attributes, ">"), []
        self._reading.first_policy = self._reading.first_policy or self._where(line)
        match list(attributes.items()):
            case [("context", context)] if context not in _CONTEXTS:
                self._refuse(line, f"<policy> for an unknown context, {quoted(context)}")
            case [(name, _)] if name in _POLICY_ATTRIBUTES:
                pass
            case _:
                names = ", ".join(_POLICY_ATTRIBUTES)
                self._refuse(line, f"<policy> needs one of {names}, and nothing else")

    def _rule(self, line: int, name: str, attributes: Mapping[str, str]) -> None:
        unknown = attributes.keys() - _RULE_ATTRIBUTES
        if unknown or not attributes:
            what = f"an unknown attribute, {printable(min(unknown))}" if unknown else "no attribute"
            self._refuse(line, f"<{name}> with {what}")
        self._rules.append(_tag(name, attributes, "/>"))
        if name == "allow" and self._attributes == {"context": "default"}:
            self._reading.opened.add(_opens(attributes))
        connect = attributes.get("user", attributes.get("group", "root"))
        if (name == "deny" or connect not in ("root", "0")) and not self._found.restricts:
            self._found.restricts = self._where(line)

    def _end_policy(self) -> None:
        rules = "".join(f"\n    {rule}" for rule in self._rules)
        self._found.policy.append(f"{self._policy}{rules}\n  </policy>")

    # -- elements --------------------------------------------------------------

    def _element(self, name: str, text: str) -> None:
        take: dict[str, Callable[[str], Any]] = {
            "type": self._type,
            "listen": lambda text: self._found.listen.append((self._where(self._line), text)),
            "servicedir": lambda text: self._found.directories.append(
                Directory(self._resolve(text), optional=True)
            ),
            "standard_session_servicedirs": lambda _: self._found.directories.extend(
                standard_directories(self._reading.environ)
            ),
            "standard_system_servicedirs": lambda _: self._found.directories.extend(
                standard_system_directories()
            ),
            "pidfile": lambda text: setattr(self._found, "pidfile", os.path.abspath(text)),
            "fork": lambda _: setattr(self._found, "fork", True),
            "limit": self._limit,
            "include": lambda text: self._include(self._resolve(text)),
            "includedir": lambda text: self._include_all(self._resolve(text)),
        }
        if name in _WITH_TEXT and not text:
            self._problem(self._line, f"<{name}> is empty")
        elif name in take:
            take[name](text)
        elif name == "user":
            self._problem(self._line, f"<user> {quoted(text)} is not used: start it as that user")
        elif name not in _IGNORED:
            self._problem(self._line, f"unknown element <{printable(name)}>")

    def _resolve(self, path: str) -> str:
        """Relative paths are relative to their file's directory, as in dbus-daemon."""
        return os.path.join(os.path.dirname(self._path), path)

    def _type(self, text: str) -> None:
        if text in _KINDS:
            self._found.kind = text
        else:
            self._problem(self._line, f"unknown type of bus, {quoted(text)}")

    def _limit(self, text: str) -> None:
        name = self._attributes.get("name", "")
        if name not in _LIMITS:
            self._problem(self._line, f"there is no limit {quoted(name)}")
        elif (number := decimal(text, 9_999_999_999)) is None:
            self._problem(self._line, f"{name}: not a number of a limit, {quoted(text)}")
        elif not 0 < number <= _LARGEST_LIMIT:
            self._problem(self._line, f"{name}: {number} is not between 1 and {_LARGEST_LIMIT}")
        else:
            self._found.limits[name] = number

    def _include(self, path: str) -> None:
        if self._attributes.get("ignore_missing") == "yes" and not os.path.exists(path):
            return
        if self._attributes.get("if_selinux_enabled") == "yes":
            return
        why = f"{self._where(self._line)}: "
        if os.path.realpath(path) in self._including:
            raise BadConfiguration(f"{why}{printable(path)} includes itself")
        _File(path, self._reading, why, self._including).read()

    def _include_all(self, directory: str) -> None:
        try:
            names = sorted(os.listdir(directory), key=os.fsencode)
        except FileNotFoundError:
            return
        except OSError as e:
            self._problem(self._line, f"{printable(directory)}: {e.strerror}")
            return
        self._attributes = {}
        for name in names:
            if name.endswith(".conf"):
                self._include(os.path.join(directory, name))


def _opens(attributes: Mapping[str, str]) -> str:
    """The member of ``_OPEN`` that an allow rule grants to everybody; empty for none."""
    match {key: text for key, text in attributes.items() if key not in ("eavesdrop", "log")}:
        case {"own": "*", **rest} if not rest:
            return "own"
        case {"send_destination": "*", **rest} if not rest:
            return "send"
        case {"receive_sender": "*", **rest} if not rest:
            return "receive"
        case {**rest} if not rest and "eavesdrop" in attributes:
            return "receive"
    return ""


def _tag(name: str, attributes: Mapping[str, str], end: str) -> str:
    # Without xml.sax.saxutils, which imports urllib, email and libcrypto: 7 MB.
    element = ET.Element(name, dict(attributes))
    return ET.tostring(element, "unicode").removesuffix(" />") + end
