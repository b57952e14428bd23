"""The messages to dbus-daemon, which an invalid error name would abort."""

from __future__ import annotations

import dataclasses
import re
import shutil
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from broker.engine import dbus_daemon
from broker.errors import DBusError, EngineFailed
from tests.engine.running import make, running
from tests.engine.test_dbus_broker import outcomes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("outcome", outcomes())
def test_every_error_name_is_valid(outcome: type[DBusError]) -> None:
    assert re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", outcome.dbus_name, re.ASCII)
    assert len(outcome.dbus_name) <= 255


def directory_of(place: Path) -> Path:
    """What was made for the engine."""
    (found,) = place.glob("dbus-activator-*")
    return found


def test_its_connections_are_used_up_before_its_table() -> None:
    """Versions 1.15 and 1.16 take up to five places for each, and hang when there is none."""
    for table in [*range(54, 4096), *(2**bits for bits in range(12, 32))]:
        found = dbus_daemon.connections(table)
        completed, incomplete, of_one_user = found.values()
        assert completed == of_one_user >= 4
        assert incomplete >= 1
        assert (completed + incomplete) * 5 + 20 <= table
    for table in range(54):
        with pytest.raises(EngineFailed, match=rf"may have {table}: Too many open files"):
            dbus_daemon.connections(table)


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [0.1, 30, 1e9, 1e300, float("inf")])
async def test_its_limits_are_integers_that_it_takes(place: Path, seconds: float) -> None:
    engine, _, started = make("dbus-daemon", place)
    engine.settings = dataclasses.replace(engine.settings, start_timeout=seconds)
    try:
        await engine.start([])
        limits = ET.parse(directory_of(place) / "bus.conf").findall("limit")
        assert len(limits) == 15
        assert all(0 < int(limit.text or "") < 2**31 for limit in limits)
    finally:
        engine.stop()
        started.end()
        engine.settings.listener.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", ["everything", "services", "a service", "configuration"])
async def test_a_removed_directory_costs_only_the_reload(place: Path, lost: str) -> None:
    async with running("dbus-daemon", place, ["org.x.One"]) as (engine, events, client):
        directory = directory_of(place)
        if lost == "configuration":
            (directory / "bus.conf").unlink()
        elif lost == "a service":
            (directory / "services" / "org.x.One.service").unlink()
        else:
            shutil.rmtree(directory if lost == "everything" else directory / "services")
        if lost == "a service":
            await engine.set_names(["org.x.Two"])
        else:
            with pytest.raises(DBusError):
                await engine.set_names(["org.x.Two"])
        await client.sync()
        assert events.gone == []
        # What the test has left of it is all that there is to be removed.
        if lost in ("everything", "services"):
            shutil.rmtree(directory, ignore_errors=True)
