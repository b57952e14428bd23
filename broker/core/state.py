"""The states of a service, in the words of the D-Bus interface."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """A service's state as (ActiveState, SubState), systemd's words where it has them."""

    DEAD = ("inactive", "dead")
    START = ("activating", "start")
    RUNNING = ("active", "running")
    EXTERNAL = ("active", "external")
    LINGERING = ("deactivating", "lingering")
    STOP_SIGTERM = ("deactivating", "stop-sigterm")
    STOP_SIGKILL = ("deactivating", "stop-sigkill")
    FAILED = ("failed", "failed")
