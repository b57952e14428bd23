"""The interface as its clients need it: names, and the types that they rely on.

Not imported from the daemon's room, which a client does not need, nor read from its XML,
which takes longer than ``list`` has. The tests hold it against that.
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

# The type of the answer, by method. All those that only read are called Get or List.
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
# What the details of a signal have at least.
DETAILS: Final = {
    "ProcessExited": {
        "t": "UserUSec SystemUSec MaxRSSBytes",
        "s": "Command Origin",
    },
    "ActivationFailed": {"s": "Result", "u": "ExecMainPID", "i": "ExecMainCode ExecMainStatus"},
}
# What they may have.
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
# Those that a broker of an older version does not have.
LATER: Final = {
    SERVICE: {
        "u": "OwnerPID",
        "as": "OwnerCommand Shadowed",
        "a(uutttttttts)": "Activations",
    },
    PROCESS: {"t": "Activation"},
}
STATES: Final = ("inactive", "activating", "active", "deactivating", "failed")
# The values of those that have few. Others are words that people read: there may be more.
VALUES: Final = {
    "ActiveState": STATES,
    "State": ("running", "exited"),
    "Origin": ("spawned", "adopted"),
    "ExecMainCode": range(4),
    "ExitCode": range(4),
    "ExecMainStatus": range(256),
    "ExitStatus": range(256),
}
# Those that hold a service's name; an orphan's is empty.
NAMING: Final = ("Name", "ServiceName")

_ABSENT: Final = {
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
}


def is_absent(e: RemoteError) -> bool:
    """Whether the bus answered, and not the broker: nobody owns its name."""
    return e.name in _ABSENT and e.sender == "org.freedesktop.DBus"


def is_proxys(e: RemoteError) -> bool:
    """Whether neither the broker nor the bus answered, but what is between it and us.

    "On a message bus, this header field is controlled by the message bus" (D-Bus specification,
    SENDER): what has none did not come through it. So xdg-dbus-proxy answers for itself.
    """
    return not e.sender


def has_left(e: RemoteError) -> bool:
    """Whether the bus answered because the broker's connection ended before it did."""
    return e.name == "org.freedesktop.DBus.Error.NoReply" and e.sender == "org.freedesktop.DBus"
