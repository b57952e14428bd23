"""What other clients of a test's bus send its connection: no events, and no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker.bus import wire
from broker.bus.blocking import BlockingConnection
from broker.core.contract import MANAGER, ROOT
from broker.testing import ProcessExited, StartError

if TYPE_CHECKING:
    from broker.testing import Bus

NAME = "org.example.One"


class Stranger(BlockingConnection):
    """A client that says what the broker does."""

    def say(self, to: str, member: str, signature: str, *body: Any) -> None:
        """A signal to one connection; it has left the bus when this returns."""
        self._serial += 1
        fields = {"path": ROOT, "interface": MANAGER, "member": member, "destination": to}
        self._write(wire.encode(wire.SIGNAL, self._serial, signature, body, **fields))
        self.call_bus("GetId")


def test_they_are_not_the_broker(bus: Bus) -> None:
    bus.add_faulty(NAME, exits=3)
    with Stranger.connect(bus.address) as stranger:
        ours = bus.remote.bus.unique_name
        details = {"Command": ("s", "forged"), "Origin": ("s", "spawned")}
        stranger.say(ours, "ProcessExited", "osuiia{sv}", "/x", NAME, 1, 1, 77, details)
        stranger.say(ours, "ProcessExited", "s", "x")
        stranger.say(ours, "InterfacesAdded", "")
        with pytest.raises(StartError):
            bus.start(NAME)
        exits = [each for each in bus.events if isinstance(each, ProcessExited)]
        assert [each.returncode for each in exits] == [3]
