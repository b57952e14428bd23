"""For authors of tests: the pytest plugin, and the bus of its fixtures.

Nothing is imported here before its first use: pytest loads the plugin in every run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from broker.testing.bus import Bus
    from broker.testing.events import (
        ActivationFailed,
        Event,
        ProcessExited,
        ProcessStarted,
        ServiceAdded,
        ServiceRemoved,
        StateChanged,
    )
    from broker.testing.fixtures import bus_fixture
    from broker.testing.service import Process, Service, StartError
    from broker.testing.settings import Settings
    from broker.testing.survivors import LeakWarning, Survivor

__all__ = [
    "ActivationFailed",
    "Bus",
    "Event",
    "LeakWarning",
    "Process",
    "ProcessExited",
    "ProcessStarted",
    "Service",
    "ServiceAdded",
    "ServiceRemoved",
    "Settings",
    "StartError",
    "StateChanged",
    "Survivor",
    "bus_fixture",
]

_MODULES: Final = {
    "Bus": "bus",
    "LeakWarning": "survivors",
    "Process": "service",
    "Service": "service",
    "Settings": "settings",
    "StartError": "service",
    "Survivor": "survivors",
    "bus_fixture": "fixtures",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'events')}")
    return getattr(module, name)
