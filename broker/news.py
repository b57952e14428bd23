"""The broker's signals as events, for those who print or keep them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from broker.contract import MANAGER, PROCESS, ROOT, SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.bus.wire import Received


class Reader:
    """Makes events of the broker's signals.

    Args:
        names: of services, by object path.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        # What the signal of a start does not say: time and command.
        self._starts: dict[str, tuple[int, str]] = {}
        self._last = 0

    def events(self, signal: Received) -> Iterator[dict[str, Any]]:
        """What a signal says.

        Time is in microseconds of CLOCK_REALTIME: when it happened, where the signal
        says that, or else when it was read; and never before the event that came first.
        (The kernel knows starts of processes to a clock tick.)
        """
        for event in self._read(signal):
            at = event.pop("Time", 0) or time.time_ns() // 1000
            self._last = max(self._last, at)
            yield {"Time": self._last} | event

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
                about = {"Event": "exited", "Service": service, "PID": pid}
                about["Time"] = details.pop("ExitTimestamp", 0)
                yield about | {"Code": code, "Status": status} | details
            case "ActivationFailed":
                service, error, message, details = body
                about = {"Event": "activation-failed", "Service": service, "Error": error}
                about["Time"] = details.pop("StateChangeTimestamp", 0)
                yield about | {"Message": message} | _plain(details)
            case "PropertiesChanged" if body[0] == SERVICE:
                yield from self._state(signal.path, body[1])
            case "PropertiesChanged" if body[0] == MANAGER and "Environment" in body[2]:
                yield {"Event": "environment", "Service": ""}
            case "InterfacesAdded" if signal.path == ROOT:
                yield from self._added(*body)
            case "InterfacesRemoved" if signal.path == ROOT and SERVICE in body[1]:
                yield {"Event": "removed", "Service": self._names.pop(body[0], "")}

    def _state(self, path: str, changed: dict[str, Any]) -> Iterator[dict[str, Any]]:
        wanted = ("ActiveState", "SubState", "Result", "MainPID", "Owner")
        found = {key: changed[key] for key in wanted if key in changed}
        if "SubState" in found:
            at = changed.get("StateChangeTimestamp", 0)
            yield {"Time": at, "Event": "state", "Service": self._names.get(path, "")} | found

    def _added(self, path: str, interfaces: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if SERVICE in interfaces:
            name = self._names[path] = interfaces[SERVICE]["Name"]
            yield {"Event": "added", "Service": name}
        elif PROCESS in interfaces:
            process = interfaces[PROCESS]
            self._starts[path] = (process["StartTimestamp"], " ".join(process["Command"]))


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {key: each.hex() if isinstance(each, bytes) else each for key, each in details.items()}
