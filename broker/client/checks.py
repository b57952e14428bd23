"""Checks the broker's messages against its interface, before any other use.

On another user's bus anyone can own our name, and send any answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.core.contract import (
    ANSWERS,
    DETAILS,
    LATER,
    MANAGER,
    MORE_DETAILS,
    NAMING,
    PROCESS,
    ROOT,
    SERVICE,
    SIGNALS,
    TYPES,
    VALUES,
)
from broker.core.printable import quoted
from broker.errors import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.bus.wire import Received

# In characters. A descriptor has at most a mebibyte, and no text of the broker's is longer.
LONGEST: Final = 1 << 20
_LONGEST_NAME: Final = 255
_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_UNSIGNED: Final = ("u", "t")


def answer(member: str, message: Received, interface: str = "", name: str = "") -> None:
    """Check the answer to a method.

    Args:
        interface, name: of the requested properties, or of a single one.

    Raises:
        NotUnderstood: it has another type, or an impossible value.
    """
    check = _Check(f"answer to {member}")
    if member in ANSWERS:
        check.signature(message, ANSWERS[member])
    body = message.body
    if member in ("ListServices", "ListServiceStates"):
        state = 2 if member == "ListServices" else 3
        for row in body[0]:
            check.name("a service", row[0])
            check.value("ActiveState", row[state])
    elif member == "GetAll":
        check.properties(interface, body[0])
    elif member == "Get":
        check.properties(interface, {name: body[0]}, whole=False)
    elif member == "GetManagedObjects":
        for interfaces in body[0].values():
            check.interfaces(interfaces)


def signal(message: Received) -> bool:
    """Check a signal of the broker's.

    Returns:
        whether the interface has this signal; others are to be ignored.

    Raises:
        NotUnderstood: as ``answer``.
    """
    expected = SIGNALS.get((message.interface, message.member))
    if expected is None:
        return False
    member = message.member
    check = _Check(f"signal {member}")
    check.signature(message, expected)
    body = message.body
    if member == "PropertiesChanged":
        check.properties(body[0], body[1], whole=False)
        return True
    if message.path != ROOT:
        return False
    if member == "InterfacesAdded":
        check.interfaces(body[1])
    elif message.interface == MANAGER:
        check.name("ServiceName", body[1] if member.startswith("Process") else body[0])
    if member == "ProcessStarted":
        check.value("Origin", body[4])
    elif member == "ProcessExited":
        check.value("ExitCode", body[3])
        check.value("ExitStatus", body[4])
    if member in DETAILS:
        check.types(DETAILS[member], body[-1])
        check.types(MORE_DETAILS, body[-1], whole=False)
    return True


class _Check:
    """Raises the errors in one message; ``what`` describes it in their text."""

    def __init__(self, what: str) -> None:
        self._what = what

    def _refuse(self, why: str) -> NotUnderstood:
        return NotUnderstood(f"the broker's {self._what} is not understood: {why}")

    def signature(self, message: Received, expected: str) -> None:
        if message.signature != expected:
            found = message.signature or "nothing"
            raise self._refuse(f"it holds {found}, not {expected or 'nothing'}")
        # A short message holds no long text.
        if message.size > LONGEST and (length := _longest(message.body)) > LONGEST:
            raise self._refuse(f"it holds a text of {length} characters")

    def interfaces(self, interfaces: Mapping[str, Mapping[str, Any]]) -> None:
        for interface in (SERVICE, PROCESS):
            if interface in interfaces:
                self.properties(interface, interfaces[interface])

    def properties(self, interface: str, found: Mapping[str, Any], *, whole: bool = True) -> None:
        """Properties of an interface: all of them, or, if not ``whole``, the received ones."""
        self.types(TYPES.get(interface, {}), found, whole=whole)
        self.types(LATER.get(interface, {}), found, whole=False)

    def types(
        self, promised: Mapping[str, str], found: Mapping[str, Any], *, whole: bool = True
    ) -> None:
        for kind, names in promised.items():
            for name in names.split():
                if name not in found:
                    if whole:
                        raise self._refuse(f"it has no {name}")
                elif not _fits(kind, found[name]):
                    raise self._refuse(f"its {name} is no {kind}")
                elif name in VALUES:
                    self.value(name, found[name])
                elif name in NAMING:
                    self.name(name, found[name])

    def value(self, name: str, found: Any) -> None:
        if found not in VALUES[name]:
            shown = quoted(found) if isinstance(found, str) else found
            raise self._refuse(f"its {name} is {shown}")

    def name(self, what: str, found: str) -> None:
        if not _is_name(found) and (found or what != "ServiceName"):
            raise self._refuse(f"{what} is called {quoted(found)}")


def _is_name(text: str) -> bool:
    """Whether it is a well-known bus name; not by ``catalog.names``, which imports re."""
    elements = text.split(".")
    return (
        len(text) <= _LONGEST_NAME
        and len(elements) > 1
        and all(each and not each[0].isdigit() and _LETTERS.issuperset(each) for each in elements)
    )


def _fits(kind: str, value: Any) -> bool:
    """Whether a value can be of a type; a number's range is not checked."""
    if kind in ("s", "o"):
        return isinstance(value, str)
    if kind == "ay":
        return isinstance(value, bytes)
    if kind[0] == "a":
        return isinstance(value, list) and all(_fits(kind[1:], each) for each in value)
    if kind[0] == "(":
        # Basic types only, with one letter each.
        members = kind[1:-1]
        fitting = isinstance(value, list) and len(value) == len(members)
        return fitting and all(map(_fits, members, value))
    if kind == "b":
        return isinstance(value, bool)
    number = isinstance(value, int) and not isinstance(value, bool)
    return number and (value >= 0 or kind not in _UNSIGNED)


def _longest(value: Any) -> int:
    """The length of the longest text in a value."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        value = [each for pair in value.items() for each in pair]
    if isinstance(value, list):
        return max(map(_longest, value), default=0)
    return 0
