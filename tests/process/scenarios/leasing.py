"""A file whose readers wait until we were notified."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from broker.process.lease import Gate


async def gate(directory: str) -> Any:
    """What two readers found, how often we were told, and the signal masks around it."""
    path = Path(directory, "file")
    beside = Path(directory, "beside")
    failures: list[OSError] = []
    told: list[bool] = []

    def on_reader() -> None:
        told.append(beside.exists())
        beside.write_text(f"told {len(told)}")

    def read() -> list[str]:
        return [path.read_text(), beside.read_text()]

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    each = Gate(str(path), "text", on_reader, failures.append)
    made = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    each.shut()
    shut = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found = [await asyncio.to_thread(read) for _ in range(2)]
    # From another process: it must not end us when it is no longer blocked.
    os.kill(os.getpid(), signal.SIGIO)
    each.close()
    after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    masks = [sorted(mask - before) for mask in (made, shut, after)]
    return {"found": found, "told": told, "masks": masks, "failures": len(failures)}
