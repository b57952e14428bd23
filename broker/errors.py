"""Every exception of the broker: when it is raised, and its D-Bus error name.

There are two kinds, and the type says which:

- A ``DBusError`` is expected: an activation fails, a name is unknown, an
  argument is wrong. Its caller must match it; on the bus it becomes the error
  reply that the class names. It never ends the program.
- A ``Fault`` is not: no engine is installed, the engine died, the kernel
  refuses a feature that the broker needs. Nothing catches it on its way: it
  ends the program with its ``exit_status`` (LSB's codes for daemons) and its
  text on stderr.

Any other exception is a bug of ours. In a method call, only that call fails
(``bus.objects``). In a signal, only that signal is lost (``api.publisher``). Anywhere
else it becomes ``Broken``, as it does if it leaves a service's state half changed.
"""

from __future__ import annotations

from typing import ClassVar

FDO = "org.freedesktop.DBus.Error."
OWN = "org.activation.Broker1.Error."


class DBusError(Exception):
    """An expected outcome; ``dbus_name`` is its D-Bus error name, ``str()`` its text."""

    dbus_name: ClassVar[str] = FDO + "Failed"


class ServiceUnknown(DBusError):
    """No descriptor provides the name."""

    dbus_name = FDO + "ServiceUnknown"


class SpawnFailed(DBusError):
    """The service could not be started, or was stopped before it took its name."""

    dbus_name = FDO + "Spawn.Failed"


class SpawnExecFailed(DBusError):
    """The kernel refused to execute the service's program."""

    dbus_name = FDO + "Spawn.ExecFailed"


class SpawnFileInvalid(DBusError):
    """The descriptor cannot be used to start anything."""

    dbus_name = FDO + "Spawn.FileInvalid"


class SpawnChildExited(DBusError):
    """The service exited before it took its name; the text has the status."""

    dbus_name = FDO + "Spawn.ChildExited"


class SpawnChildSignaled(DBusError):
    """A signal ended the service before it took its name; the text has the signal."""

    dbus_name = FDO + "Spawn.ChildSignaled"


class TimedOut(DBusError):
    """The service did not take its name in time."""

    dbus_name = FDO + "TimedOut"


class LimitsExceeded(DBusError):
    """A limit of the system or of the broker was reached."""

    dbus_name = FDO + "LimitsExceeded"


class InvalidArgs(DBusError):
    """An argument of a call is not valid; the text names it."""

    dbus_name = FDO + "InvalidArgs"


class AccessDenied(DBusError):
    """The caller is neither the broker's own user nor root."""

    dbus_name = FDO + "AccessDenied"


class UnknownObject(DBusError):
    """There is no object at the path."""

    dbus_name = FDO + "UnknownObject"


class UnknownInterface(DBusError):
    """The object has no such interface."""

    dbus_name = FDO + "UnknownInterface"


class UnknownMethod(DBusError):
    """The interface has no such method."""

    dbus_name = FDO + "UnknownMethod"


class UnknownProperty(DBusError):
    """The interface has no such property."""

    dbus_name = FDO + "UnknownProperty"


class PropertyReadOnly(DBusError):
    """The property cannot be set."""

    dbus_name = FDO + "PropertyReadOnly"


class NoSuchProcess(DBusError):
    """The broker has no process with this PID, and had none lately."""

    dbus_name = OWN + "NoSuchProcess"


class NotRunning(DBusError):
    """The service has no process that the broker could stop or signal."""

    dbus_name = OWN + "NotRunning"


class NotCaptured(DBusError):
    """The output of services goes elsewhere, and is not kept."""

    dbus_name = OWN + "NotCaptured"


class StartLimitHit(DBusError):
    """The service failed too often in a short time and is not started for a while."""

    dbus_name = OWN + "StartLimitHit"


class ShuttingDown(DBusError):
    """The broker is shutting down and starts no more services."""

    dbus_name = OWN + "ShuttingDown"


class Disconnected(DBusError):
    """The peer closed the connection, or it was closed here, before an answer came."""

    dbus_name = FDO + "Disconnected"


class NoBroker(DBusError):
    """No dbus-activator runs on the bus."""

    dbus_name = FDO + "ServiceUnknown"


class ProxyDenied(DBusError):
    """A proxy between us and the bus, such as a sandbox's, did not let a call through."""

    dbus_name = FDO + "AccessDenied"


class NoReply(DBusError):
    """No answer came within the caller's timeout."""

    dbus_name = FDO + "NoReply"


class NotUnderstood(DBusError):
    """A message of the broker's violates its interface; the text says how."""

    dbus_name = FDO + "InconsistentMessage"


class RemoteError(DBusError):
    """A peer answered a call with an error.

    ``name`` is the error's D-Bus name, ``sender`` the peer's unique name. For a name
    without an owner, the bus itself answers.
    """

    def __init__(self, name: str, text: str, sender: str = "") -> None:
        super().__init__(text)
        self.name = name
        self.sender = sender


class DescriptorError(DBusError):
    """A service file is broken: ``path``, ``line`` (from 1; 0 for the whole file), ``reason``."""

    dbus_name = FDO + "Spawn.FileInvalid"

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class NotReloaded(DBusError):
    """The descriptors cannot be reread now, or not be passed on to the bus."""


class Fault(Exception):
    """A failure that ends the broker; ``exit_status`` is the program's."""

    exit_status: ClassVar[int] = 1


class BadConfiguration(Fault):
    """An option or a file that the user gave cannot be used (LSB 6)."""

    exit_status = 6


class PermissionRefused(Fault):
    """The system denies this user the operation (LSB 4)."""

    exit_status = 4


class EngineMissing(Fault):
    """No usable message bus is installed (LSB 5)."""

    exit_status = 5


class EngineFailed(Fault):
    """The message bus did not start, or ended while it was needed."""


class KernelRefused(Fault):
    """The kernel lacks, or refuses, a feature that supervision needs."""


class Broken(Fault):
    """An essential part failed half-way: reaping, a service's rules, the link to the bus.

    The recorded state of services may be wrong from here on. ``__cause__`` is the original
    exception, and its traceback is in the log.
    """


class OutputRefused(Fault):
    """Standard output takes no more: the disk is full, or the terminal closed."""
