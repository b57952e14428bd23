"""What the callers of a service that does not come are told, in the reference's words.

Scripts look for the words; where dbus-daemon has none for a case, they are its kind.
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
    """The service's process ended before it took the name, and left nobody to."""
    if end.zero:
        text = f"Process {name} exited with status 0 and left nobody to take its name"
        return SpawnChildExited(text), Result.PROTOCOL
    if end.result is Result.EXIT_CODE:
        return SpawnChildExited(f"Process {name} exited with status {end.status}"), end.result
    return SpawnChildSignaled(f"Process {name} received signal {end.status}"), end.result


def explained(error: DBusError, last_words: str) -> DBusError:
    """With what the service said last, if it is for the service to explain; the known words first.

    One that was not started, or was stopped, has not said why.
    """
    if last_words and isinstance(error, SpawnChildExited | SpawnChildSignaled | TimedOut):
        return type(error)(f"{error}: {last_words}")
    return error


def timed_out(name: str, seconds: float) -> DBusError:
    """The name was not owned in time."""
    return TimedOut(f"Failed to activate service '{name}': timed out after {seconds:g} s")


def unending(name: str) -> DBusError:
    """What is left of it is in the kernel's hands, and has withstood SIGKILL for as long."""
    return TimedOut(f"Failed to activate service '{name}': its processes cannot be ended")


def refused(name: str, failures: int, seconds: float) -> DBusError:
    """It failed too often to be tried again at once."""
    return StartLimitHit(
        f"{name} failed {failures} times within {seconds:g} s and is not started for a while"
    )


def stopped(name: str) -> DBusError:
    """Somebody stopped it."""
    return SpawnFailed(f"{name} was stopped before it took its name")


def closing(name: str) -> DBusError:
    """There is no time left for it."""
    return ShuttingDown(f"{name} is not started: the session is ending")
