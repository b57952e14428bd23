"""The errors of failed activations, in dbus-daemon's words.

Scripts look for these words. Where dbus-daemon has none for a case, ours resemble them.
"""

from __future__ import annotations

from broker.core.exits import Exit, Result
from broker.errors import (
    DBusError,
    ShuttingDown,
    SpawnChildExited,
    SpawnChildSignaled,
    SpawnFailed,
    StartLimitHit,
    TimedOut,
)


def ended(name: str, end: Exit) -> tuple[DBusError, Result]:
    """The service's process ended without the name, and no other process took it."""
    if end.zero:
        text = f"Process {name} exited with status 0 and left nobody to take its name"
        return SpawnChildExited(text), Result.PROTOCOL
    if end.result is Result.EXIT_CODE:
        return SpawnChildExited(f"Process {name} exited with status {end.status}"), end.result
    return SpawnChildSignaled(f"Process {name} received signal {end.status}"), end.result


def explained(error: DBusError, last_words: str) -> DBusError:
    """The error with the service's last words appended, if they may explain it.

    A service that was not started, or was stopped, has not written the reason.
    """
    if last_words and isinstance(error, SpawnChildExited | SpawnChildSignaled | TimedOut):
        return type(error)(f"{error}: {last_words}")
    return error


def timed_out(name: str, seconds: float) -> DBusError:
    """The name was not owned in time."""
    return TimedOut(f"Failed to activate service '{name}': timed out after {seconds:g} s")


def unending(name: str) -> DBusError:
    """Its last processes hang in the kernel, and have survived SIGKILL for as long as a start."""
    return TimedOut(f"Failed to activate service '{name}': its processes cannot be ended")


def refused(name: str, failures: int, seconds: float) -> DBusError:
    """It failed too often to be started again now."""
    return StartLimitHit(
        f"{name} failed {failures} times within {seconds:g} s and is not started for a while"
    )


def stopped(name: str) -> DBusError:
    """It was stopped on request."""
    return SpawnFailed(f"{name} was stopped before it took its name")


def closing(name: str) -> DBusError:
    """The session ends before it could start."""
    return ShuttingDown(f"{name} is not started: the session is ending")
