"""The services of the soak: well-behaved ones, bad ones, and some that come and go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from tests.integration.buses import Place

PREFIX: Final = "org.activation.Test.Soak"
# How many of a kind there are, and what they run.
KINDS: Final = {
    "Plain": (8, "{service} {name}"),
    "Daemon": (4, "{service} -d {name}"),
    "Orphan": (4, "{service} -l {name}"),
    "Both": (2, "{service} -d -l {name}"),
    "Status": (2, "{service} -x 3 {name}"),
    "Nobody": (1, "{service} -x 0 {name}"),
    "DaemonStatus": (1, "{service} -d -x 5 {name}"),
    "Signal": (1, "{service} -k 9 {name}"),
    "DaemonSignal": (1, "{service} -d -k 15 {name}"),
    "OrphanStatus": (1, "{service} -l -x 4 {name}"),
    "Silent": (2, "/bin/sleep 1000"),
    "Missing": (1, "/nonexistent"),
    "Stubborn": (1, "{place}/stubborn {service} {name}"),
    "Storm": (1, "{place}/storm {service} {name}"),
    "Sparks": (1, "{place}/sparks {service} {name}"),
}
SCRIPTS: Final = {
    # What is ignored stays so over exec.
    "stubborn": "trap '' TERM\nexec \"$@\"\n",
    # Orphans from their first moment on, since the subshell that forked them has ended.
    "storm": 'for each in 1 2 3 4 5 6 7 8 9 10; do (sleep 1000 & ); done\nexec "$@"\n',
    # Orphans that end in the moment that they become ones.
    "sparks": 'for each in 1 2 3 4 5 6 7 8 9 10; do (: & ); done\nexec "$@"\n',
}
PASSING: Final = 6


class Services:
    """The descriptors on disk.

    Attributes:
        names: those that stay; what their kind is shows in the name.
        passing: those that are there now and then.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._fresh = 0
        for name, text in SCRIPTS.items():
            place.write(name, f"#!/bin/sh\n{text}")
        self.names = []
        for kind, (count, command) in KINDS.items():
            for number in range(count):
                name = f"{PREFIX}.{kind}{number}"
                self.names.append(name)
                self.add(name, command)
        self.changing = f"{PREFIX}.Changing"
        self.names.append(self.changing)
        self.passing = [f"{PREFIX}.Passing{number}" for number in range(PASSING)]
        self.restore()

    def good(self, chance: Random) -> str:
        """A name that can be started."""
        kind = chance.choice(("Plain", "Daemon", "Orphan", "Both"))
        return f"{PREFIX}.{kind}{chance.randrange(KINDS[kind][0])}"

    def any(self, chance: Random) -> str:
        """Whatever name, one that is not there included."""
        return chance.choice([*self.names, *self.passing])

    def mutate(self, chance: Random) -> None:
        """Add, remove or change a descriptor."""
        name = chance.choice([*self.passing, self.changing])
        path = self._place.services / f"{name}.service"
        if name == self.changing or not path.exists():
            self.add(name, KINDS[chance.choice(("Plain", "Daemon", "Status", "Silent"))][1])
        else:
            self.remove(name)

    def fresh(self) -> str:
        """A descriptor for a name that was never there, in a namespace of its own."""
        self._fresh += 1
        name = f"soak{self._fresh}.activation.Test"
        self.add(name, KINDS["Both"][1])
        return name

    def remove(self, name: str) -> None:
        """Take a descriptor away; another client may have done it."""
        (self._place.services / f"{name}.service").unlink(missing_ok=True)

    def restore(self) -> None:
        """Leave the descriptors as they were in the beginning."""
        for name in self.passing:
            self.remove(name)
        self.add(self.changing, KINDS["Plain"][1])

    def add(self, name: str, command: str = KINDS["Plain"][1]) -> None:
        """Write a descriptor."""
        line = command.format(service=self._place.service, place=self._place.path, name=name)
        # In one step: somebody may be reading the directory.
        whole = self._place.write("descriptor", f"[D-BUS Service]\nName={name}\nExec={line}\n")
        os.rename(whole, self._place.services / f"{name}.service")
