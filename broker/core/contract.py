"""The D-Bus interface as clients need it: names, and the types that they rely on.

Not imported from the daemon's package, which a client does not need, nor read from the XML,
which would take too long for ``list``. The tests compare this module with the XML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from broker.errors import RemoteError

BUS_NAME: Final = "org.activation.Broker1"
ROOT: Final = "/org/activation/Broker1"
MANAGER: Final = f"{BUS_NAME}.Manager"
SERVICE: Final = f"{BUS_NAME}.Service"
PROCESS: Final = f"{BUS_NAME}.Process"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"

# The type of the answer, by method. Every read-only method is called Get or List.
ANSWERS: Final = {
    "StartService": "o",
    "StopService": "",
    "KillService": "",
    "ResetFailed": "",
    "GetService": "o",
    "GetServiceByPID": "o",
    "GetProcess": "o",
    "ListServices": "a(sosu)",
    "ListServiceStates": "a(sobsssuut)",
    "GetLog": "a(tttuss)t",
    "ListLeaks": "a(subast)",
    "Reload": "",
    "SetEnvironment": "",
    "UnsetEnvironment": "",
    "Exit": "",
    "Get": "v",
    "GetAll": "a{sv}",
    "GetManagedObjects": "a{oa{sa{sv}}}",
}
# The type of a signal, by interface and member.
SIGNALS: Final = {
    (MANAGER, "ProcessStarted"): "osuus",
    (MANAGER, "ProcessExited"): "osuiia{sv}",
    (MANAGER, "ActivationFailed"): "sssa{sv}",
    (MANAGER, "LogAppended"): "st",
    (PROPERTIES, "PropertiesChanged"): "sa{sv}as",
    (OBJECT_MANAGER, "InterfacesAdded"): "oa{sa{sv}}",
    (OBJECT_MANAGER, "InterfacesRemoved"): "oas",
}
# The details that a signal always has.
DETAILS: Final = {
    "ProcessExited": {
        "t": "UserUSec SystemUSec MaxRSSBytes",
        "s": "Command Origin",
    },
    "ActivationFailed": {"s": "Result", "u": "ExecMainPID", "i": "ExecMainCode ExecMainStatus"},
}
# The details that it may have.
MORE_DETAILS: Final = {"t": "ExitTimestamp StateChangeTimestamp"}
# The properties of an interface, by type.
TYPES: Final = {
    MANAGER: {
        "s": "Version Engine BusAddress",
        "b": "Subreaper",
        "as": "ServiceDirectories Environment",
        "u": "NServices NProcesses",
        "t": "NReaped ActivationTimeoutUSec StopTimeoutUSec",
    },
    SERVICE: {
        "s": "Name DescriptorPath User ActiveState SubState Result Owner",
        "as": "ExecStart",
        "au": "PIDs",
        "ay": "InvocationID",
        "u": "MainPID ExecMainPID NActivations NFailures",
        "i": "ExecMainCode ExecMainStatus",
        "t": "ExecMainStartTimestamp ExecMainStartTimestampMonotonic ExecMainExitTimestamp "
        "ExecMainExitTimestampMonotonic StateChangeTimestamp StateChangeTimestampMonotonic "
        "InactiveExitTimestamp InactiveExitTimestampMonotonic ActiveEnterTimestamp "
        "ActiveEnterTimestampMonotonic ActiveExitTimestamp ActiveExitTimestampMonotonic "
        "InactiveEnterTimestamp InactiveEnterTimestampMonotonic ActivationUSec CPUUsageNSec "
        "MemoryPeak",
    },
    PROCESS: {
        "s": "ServiceName Origin Attribution State",
        "o": "Service",
        "as": "Command",
        "u": "PID PPID",
        "i": "ExitCode ExitStatus",
        "t": "StartTimestamp StartTimestampMonotonic ExitTimestamp ExitTimestampMonotonic "
        "UserUSec SystemUSec MaxRSSBytes",
    },
}
# The properties that a broker of an older version lacks.
LATER: Final = {
    SERVICE: {
        "u": "OwnerPID",
        "as": "OwnerCommand Shadowed",
        "a(uutttttttts)": "Activations",
    },
    PROCESS: {"t": "Activation"},
}
STATES: Final = ("inactive", "activating", "active", "deactivating", "failed")
# The values of enumerated properties. Other strings are for people, and may get new values.
VALUES: Final = {
    "ActiveState": STATES,
    "State": ("running", "exited"),
    "Origin": ("spawned", "adopted"),
    "ExecMainCode": range(4),
    "ExitCode": range(4),
    "ExecMainStatus": range(256),
    "ExitStatus": range(256),
}
# The properties that hold a service's name; an orphan's is empty.
NAMING: Final = ("Name", "ServiceName")

_ABSENT: Final = {
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
}


def is_absent(e: RemoteError) -> bool:
    """Whether the bus answered in the broker's place: the broker's name has no owner."""
    return e.name in _ABSENT and e.sender == "org.freedesktop.DBus"


def is_proxys(e: RemoteError) -> bool:
    """Whether a proxy between us and the bus answered, not the broker or the bus.

    "On a message bus, this header field is controlled by the message bus" (D-Bus specification,
    SENDER): a message without it did not come through the bus. xdg-dbus-proxy answers so.
    """
    return not e.sender


def has_left(e: RemoteError) -> bool:
    """Whether the bus answered because the broker's connection ended before its answer."""
    return e.name == "org.freedesktop.DBus.Error.NoReply" and e.sender == "org.freedesktop.DBus"
