"""Where a suite fails on ours and not on dbus-daemon, and why that is no fault of ours.

By engine: patterns of "program: case", and the reason. What dbus-broker answers itself it
answers in the same way where systemd starts it.
"""

from __future__ import annotations

import fnmatch
from typing import Final

_NUMBERS: Final = "it wants :1.0 and :1.1, and the first connections of a bus are the broker's"
_SYSTEMD: Final = "it plays systemd, which on dbus-daemon is the broker's part"
_DRIVER: Final = "dbus-broker's own interface differs"
_LIMITS: Final = "dbus-broker has quotas, and none of dbus-daemon's limits"
_MONITORS: Final = "monitors of dbus-broker show unique names, and take no eavesdrop in their rules"

# A policy in a test's file has dbus-daemon chosen.
_BOTH: Final = {
    "glib/gdbus-connection: /gdbus/connection/signals": _NUMBERS,
    "libdbus/test-monitor*: /monitor/activation": _SYSTEMD,
    "libdbus/test-sd-activation*: *": _SYSTEMD,
}
KNOWN: Final = {
    "dbus-broker": {
        **_BOTH,
        "libdbus/test-dbus-daemon-eavesdrop*: *": "dbus-broker has no eavesdropping but by "
        "monitors, as it is deprecated",
        "libdbus/test-dbus-daemon*: /no-reply/disconnect": "dbus-broker has a text of its own",
        "libdbus/test-dbus-daemon*: /no-reply/timeout": _LIMITS,
        "libdbus/test-dbus-daemon*: /limits/*": _LIMITS,
        "libdbus/test-dbus-daemon*: /properties/*": _DRIVER,
        "libdbus/test-header-fields*: /message/weird-header-field/*": "dbus-broker passes "
        "unknown header fields on, which dbus-daemon takes out",
        "libdbus/test-monitor*: /monitor/invalid": _DRIVER,
        "libdbus/test-monitor*: /monitor/selective": _MONITORS,
        "libdbus/test-monitor*: /monitor/unique-destination": _MONITORS,
        "libdbus/test-monitor*: /monitor/well-known-destination": _MONITORS,
    },
    "dbus-daemon": {
        **_BOTH,
        "dbusmock/test_systemd: *": _SYSTEMD,
        "libdbus/test-dbus-daemon*: /limits/max-match-rules-per-connection": "the limit is one "
        "for all, and the broker needs more rules than the file allows",
    },
}


def reason(engine: str, case: str) -> str | None:
    """Why a difference is known; None if it is not."""
    known = KNOWN[engine].items()
    return next((why for pattern, why in known if fnmatch.fnmatchcase(case, pattern)), None)
