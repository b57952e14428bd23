"""The report of a session as JSON data, for ``run --json-report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.core.exits import Exit
    from broker.core.processes import Process, Processes
    from broker.services.leaks import Leak
    from broker.services.units import Unit


def of_session(units: Iterable[Unit], processes: Processes) -> dict[str, Any]:
    """Services that were activated or are running, and all processes on record.

    Times are in microseconds; of ended processes, the newest 16 of each service are included.
    """
    records = sorted([*processes.live(), *processes.ended()], key=lambda each: each.serial)
    used = (unit for unit in units if unit.service.activations or unit.service.owner)
    return {
        "services": [_service(unit) for unit in used],
        "processes": [_process(each) for each in records],
    }


def of_exit(end: Exit) -> dict[str, int]:
    """An exit in waitid's terms."""
    return {"code": end.code, "status": end.status}


def of_leak(leak: Leak) -> dict[str, Any]:
    """A process that outlived its service; the age is in seconds."""
    return {
        "service": leak.service,
        "pid": leak.pid,
        "origin": leak.origin,
        "adopted": leak.adopted,
        "program": printable(leak.program),
        "command": list(leak.command),
        "state": leak.state,
        "age": round(leak.age, 3),
        "names": list(leak.names),
    }


def _service(unit: Unit) -> dict[str, Any]:
    service = unit.service
    active, sub = service.state.value
    return {
        "name": service.name,
        "descriptor": unit.descriptor.path,
        "state": active,
        "sub_state": sub,
        "result": str(service.result),
        "activations": service.activations,
        "failures": service.failures,
        "activation_usec": service.activation_usec,
        "pid": service.main.last_pid,
        "exit": of_exit(service.main.exit) if service.main.exit.code else None,
    }


def _process(process: Process) -> dict[str, Any]:
    return {
        "service": process.service,
        "pid": process.pid,
        "ppid": process.ppid,
        "origin": str(process.origin),
        "attribution": str(process.attribution),
        "command": list(process.command),
        "started": process.started.realtime,
        "ended": None if process.running else process.exited.realtime,
        "exit": None if process.running else of_exit(process.exit),
        "user_usec": process.usage.user,
        "system_usec": process.usage.system,
        "max_rss_bytes": process.usage.max_rss,
    }
