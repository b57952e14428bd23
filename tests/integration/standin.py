"""The broker by dbus-daemon's name: started with its options and its files, or refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import pytest

from broker.catalog import busconfig
from tests.integration.buses import TEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.buses import Place

NAME = f"{TEST}.One"
OPEN = """
<policy context="default">
  <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
"""


def environ(place: Place, **changes: str) -> dict[str, str]:
    """Nothing but the link and the one engine is in PATH, the link first."""
    engines = place.path / "engines"
    if not engines.exists():
        engines.mkdir()
        (engines / place.engine).symlink_to(f"/usr/bin/{place.engine}")
    changes.setdefault("PATH", f"{place.path}/link:{engines}")
    return place.environ(**changes)


def need_the_hosts_session(place: Place) -> None:
    """``--session`` is the host's own file, and what that includes."""
    restricts = busconfig.load("/usr/share/dbus-1/session.conf", {}).restricts
    if restricts and place.engine == "dbus-broker":
        pytest.skip(f"{restricts} is for dbus-daemon alone")


def config(place: Place, text: str, policy: str = OPEN) -> Path:
    """A configuration file with the place's descriptors."""
    text = f"<servicedir>{place.services}</servicedir>\n{text}\n{policy}"
    return place.write("bus.conf", f"<busconfig>{text}</busconfig>")


@dataclass(slots=True)
class Standin:
    """A running bus in dbus-daemon's place."""

    place: Place
    process: subprocess.Popen[bytes]
    address: str
    complaints: IO[bytes]

    def call(self, name: str, member: str, *arguments: str) -> str:
        """The answer to a method call of the user's, as dbus-send prints it."""
        where = f"--bus={self.address}"
        argv: list[str | Path] = [
            "/usr/bin/dbus-send",
            where,
            "--print-reply=literal",
            f"--dest={name}",
        ]
        done = self.place.user.run([*argv, "/", member, *arguments], env={})
        return (done.stdout or done.stderr).strip()

    def echo(self, name: str = NAME) -> str:
        """A call that activates."""
        return self.call(name, f"{TEST}.Echo", "string:hello")

    def verb(self, *argv: str) -> str:
        """What a verb of ours says of this bus."""
        command: list[str | Path] = [self.place.user.command, *argv, f"--address={self.address}"]
        done = self.place.user.run(command, env=environ(self.place))
        return (done.stdout or done.stderr).strip()

    def said(self) -> str:
        """All that it has complained of."""
        self.complaints.seek(0)
        return self.complaints.read().decode()


@contextlib.contextmanager
def bus(place: Place, link: Path, *options: str, **changes: str) -> Iterator[Standin]:
    """Start one with options, and end it as its starters do."""
    read, write = os.pipe()
    with os.fdopen(read) as output, tempfile.TemporaryFile() as complaints:
        process = place.user.popen(
            [link, f"--print-address={write}", *options],
            env=environ(place, **changes),
            pass_fds=[write],
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            cwd=place.path,
        )
        os.close(write)
        try:
            found = Standin(place, process, output.readline().strip(), complaints)
            # Its end: the descriptor is closed behind the address.
            assert output.read() == ""
            assert found.address, found.said()
            yield found
        finally:
            process.terminate()
            assert process.wait() == 0


def refused(place: Place, link: Path, *options: str, **changes: str) -> tuple[int, str]:
    """Run one that must not start."""
    done = place.user.run([link, *options], env=environ(place, **changes), cwd=place.path)
    assert done.stdout == ""
    return done.returncode, done.stderr
