"""The broker's signals as events, for printing and storing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from broker.core.contract import MANAGER, PROCESS, SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.bus.wire import Received


# Processes whose start was not reported yet; the next signal reports it.
_MOST_STARTS: Final = 4096


class Reader:
    """Makes events of the broker's signals.

    Args:
        rows: the answer to ListServiceStates.
    """

    def __init__(self, rows: Iterable[list[Any]]) -> None:
        # By object path: the name, and the state last reported.
        self._names: dict[str, str] = {}
        self._states: dict[str, tuple[str, str]] = {}
        # The details that the signal of a start lacks: time and command.
        self._starts: dict[str, tuple[int, str]] = {}
        self._last = 0
        for _ in self._resume(rows):
            pass

    def events(self, signal: Received) -> Iterator[dict[str, Any]]:
        """The events in a signal.

        Time is in microseconds of CLOCK_REALTIME: the signal's own if it has one, else the
        time of reading; never earlier than the previous event's. (The kernel knows the starts
        of processes to a clock tick.)
        """
        return self._timed(self._read(signal))

    def resume(self, rows: Iterable[list[Any]]) -> Iterator[dict[str, Any]]:
        """The changes of the services during a gap in the signals.

        Args:
            rows: the answer to ListServiceStates.
        """
        return self._timed(self._resume(rows))

    def _timed(self, events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for event in events:
            at = event.pop("Time", 0) or time.time_ns() // 1000
            self._last = max(self._last, at)
            yield {"Time": self._last} | event

    def _resume(self, rows: Iterable[list[Any]]) -> Iterator[dict[str, Any]]:
        gone = dict(self._names)
        for name, path, _, active, sub, result, main, _, at in rows:
            gone.pop(path, None)
            if path not in self._names:
                self._names[path] = name
                yield {"Event": "added", "Service": name}
            if self._states.get(path) != (active, sub):
                self._states[path] = (active, sub)
                state = {"ActiveState": active, "SubState": sub, "Result": result, "MainPID": main}
                yield {"Time": at, "Event": "state", "Service": name} | state
        for path, name in gone.items():
            self._forget(path)
            yield {"Event": "removed", "Service": name}

    def _read(self, signal: Received) -> Iterator[dict[str, Any]]:
        body = signal.body
        match signal.member:
            case "ProcessStarted":
                path, service, pid, ppid, origin = body
                at, command = self._starts.pop(path, (0, ""))
                yield {
                    "Time": at,
                    "Event": "started",
                    "Service": service,
                    "PID": pid,
                    "PPID": ppid,
                    "Origin": origin,
                    "Command": command,
                }
            case "ProcessExited":
                _, service, pid, code, status, details = body
                about = {"Time": details.pop("ExitTimestamp", 0), "Event": "exited"}
                about |= {"Service": service, "PID": pid, "Code": code, "Status": status}
                yield about | _beside(about, details)
            case "ActivationFailed":
                service, error, message, details = body
                at = details.pop("StateChangeTimestamp", 0)
                about = {"Time": at, "Event": "activation-failed", "Service": service}
                about |= {"Error": error, "Message": message}
                yield about | _beside(about, details)
            case "PropertiesChanged" if body[0] == SERVICE:
                yield from self._state(signal.path, body[1])
            case "PropertiesChanged" if body[0] == MANAGER and "Environment" in body[2]:
                yield {"Event": "environment", "Service": ""}
            case "InterfacesAdded":
                yield from self._added(*body)
            case "InterfacesRemoved" if SERVICE in body[1]:
                yield {"Event": "removed", "Service": self._forget(body[0])}

    def _state(self, path: str, changed: dict[str, Any]) -> Iterator[dict[str, Any]]:
        wanted = ("ActiveState", "SubState", "Result", "MainPID", "Owner")
        found = {key: changed[key] for key in wanted if key in changed}
        if "SubState" in found:
            active, _ = self._states.get(path, ("", ""))
            self._states[path] = (found.get("ActiveState", active), found["SubState"])
            at = changed.get("StateChangeTimestamp", 0)
            yield {"Time": at, "Event": "state", "Service": self._names.get(path, "")} | found

    def _added(self, path: str, interfaces: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if SERVICE in interfaces:
            about = interfaces[SERVICE]
            name = self._names[path] = about["Name"]
            self._states[path] = (about["ActiveState"], about["SubState"])
            yield {"Event": "added", "Service": name}
        elif PROCESS in interfaces:
            process = interfaces[PROCESS]
            if len(self._starts) >= _MOST_STARTS:
                self._starts.clear()
            self._starts[path] = (process["StartTimestamp"], " ".join(process["Command"]))

    def _forget(self, path: str) -> str:
        self._states.pop(path, None)
        return self._names.pop(path, "")


def _beside(about: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """The details without those already in ``about``; bytes in hexadecimal."""
    return {
        key: each.hex() if isinstance(each, bytes) else each
        for key, each in details.items()
        if key not in about
    }
