"""What a client knows of the broker that reads everything once and then only listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.api import paths
from tests.aio_client import ROOT, SERVICE, Snapshot

if TYPE_CHECKING:
    from tests.aio_client import Signal

SPECS = {spec.name: spec for spec in (paths.MANAGER, paths.SERVICE, paths.PROCESS)}


def objects_in(snapshot: Snapshot) -> dict[str, dict[str, dict[str, Any]]]:
    """A snapshot in the shape of GetManagedObjects."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path, values in snapshot.services.items():
        found[path] = {SERVICE: values}
    for path, values in snapshot.processes.items():
        found[path] = {paths.PROCESS.name: values}
    return found


class Mirror:
    """The objects as the signals tell them; each signal is held against what came before."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.stale: set[str] = set()

    def on_signal(self, signal: Signal) -> None:
        """Take one of the broker's signals, in their order.

        Raises:
            AssertionError: it contradicts what was said before.
            KeyError: it is about an object that was never announced, or has gone.
        """
        if signal.member == "InterfacesAdded":
            assert signal.path == ROOT
            path, interfaces = signal.body
            assert path not in self.objects, path
            self.objects[path] = interfaces
        elif signal.member == "InterfacesRemoved":
            assert signal.path == ROOT
            path, interfaces = signal.body
            for name in interfaces:
                del self.objects[path][name]
            if not self.objects[path]:
                del self.objects[path]
        elif signal.member == "PropertiesChanged":
            interface, changed, invalidated = signal.body
            known = self.objects[signal.path][interface]
            for name, value in changed.items():
                assert SPECS[interface].properties[name].emits == "true"
                assert known[name] != value, (signal.path, name)
                known[name] = value
            self.stale |= set(invalidated)

    def differences(self, truth: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
        """Where the broker's own answer is another one: of what it promises to announce."""
        found = [
            f"{path} is {'not ' if path in truth else ''}there"
            for path in sorted((self.objects.keys() - {ROOT}) ^ truth.keys())
        ]
        for path in self.objects.keys() & truth.keys():
            for interface, values in truth[path].items():
                for name, value in values.items():
                    announced = SPECS[interface].properties[name].emits in ("true", "const")
                    known = self.objects[path][interface][name]
                    if announced and known != value:
                        found.append(f"{path} {name}: told {known!r}, is {value!r}")
        return found
