"""Programs with the name of an engine that are not one, or do not start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from broker.engine import base, dbus_broker, dbus_daemon
from broker.errors import EngineFailed, EngineMissing, Fault
from tests.engine.running import make

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engine.running import Started

pytestmark = pytest.mark.asyncio

VERSION = 'case "$*" in *--version*) echo dbus-broker 33; echo D-Bus Message Bus Daemon 1.14; exit'


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that hangs is given up soon."""
    for module in (base, dbus_broker, dbus_daemon):
        monkeypatch.setattr(module, "START_TIMEOUT", 0.3)


async def refused(engine: str, place: Path, script: str) -> tuple[Fault, Started]:
    """Start a program in the engine's place; why it was refused."""
    program = place / engine
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    tried, events, started = make(engine, place, str(program))
    try:
        with pytest.raises(Fault) as caught:
            await tried.start([])
    finally:
        tried.stop()
        started.end()
        tried.settings.listener.close()
    assert events.gone in ([], [f"{tried.version} closed its controller's connection"])
    return caught.value, started


@pytest.mark.parametrize(
    "said",
    ["", "hello", "dbus-broker", "dbus-broker x33", "D-Bus Message Bus", r"\\377\\0\\033[1m"],
)
async def test_a_version_that_makes_no_sense_is_shown(engine: str, place: Path, said: str) -> None:
    fault, started = await refused(engine, place, f"printf '{said}'")
    assert isinstance(fault, EngineFailed)
    assert str(fault).startswith(f"{place}/{engine} is no {engine}: --version printed '")
    assert str(fault).isprintable()
    assert len(started.pids) == 1


async def test_a_version_without_end_is_not_read_to_its_end(engine: str, place: Path) -> None:
    fault, _ = await refused(engine, place, "exec yes nonsense")
    assert str(fault).startswith(f"{place}/{engine} is no {engine}: --version printed 'nonsense")
    assert len(str(fault)) < 500


@pytest.mark.parametrize("number", range(40))
async def test_which_versions_are_taken(place: Path, number: int) -> None:
    script = f'case "$*" in *--version*) echo dbus-broker {number};; *) echo tried >&2;; esac'
    fault, started = await refused("dbus-broker", place, script)
    if number < 30:
        assert isinstance(fault, EngineMissing)
        assert str(fault).startswith(f"dbus-broker {number} is too old: 30 or newer is needed")
        assert len(started.pids) == 1
    else:
        assert isinstance(fault, EngineFailed)
        assert re.fullmatch(rf"dbus-broker {number} does not .*: tried", str(fault))


@pytest.mark.parametrize("end", ["exit 0", "exit 1", "kill -KILL $$", "kill -SEGV $$"])
async def test_one_that_ends_at_once(engine: str, place: Path, end: str) -> None:
    fault, started = await refused(engine, place, f"{VERSION};; esac; echo the reason >&2; {end}")
    assert isinstance(fault, EngineFailed)
    assert str(fault).endswith(": the reason")
    assert len(started.pids) == 2


async def test_one_whose_version_ends_at_once(engine: str, place: Path) -> None:
    fault, _ = await refused(engine, place, "kill -SEGV $$")
    assert str(fault) == f"{place}/{engine} is no {engine}: --version printed ''"


@pytest.mark.usefixtures("hurried")
async def test_one_that_does_not_say_its_version(engine: str, place: Path) -> None:
    fault, _ = await refused(engine, place, "exec sleep 1000")
    assert str(fault) == "the message bus does not start"


@pytest.mark.usefixtures("hurried")
async def test_one_that_hangs(engine: str, place: Path) -> None:
    fault, started = await refused(engine, place, f"{VERSION};; esac; exec sleep 1000")
    assert isinstance(fault, EngineFailed)
    assert len(started.pids) == 2
