"""Decides when to read the descriptors: at the start, on request, and after changes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from broker.errors import DBusError, Disconnected, NotReloaded, ShuttingDown
from broker.session.loading import Loader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.catalog.catalog import Catalog, Directory
    from broker.catalog.descriptor import Descriptor
    from broker.process.parts import Parts

log = logging.getLogger(__name__)


class ReloadEvents(Protocol):
    """The steps of a reload after the reading."""

    def descriptors_read(self, descriptors: Mapping[str, Descriptor]) -> None:
        """Take the new descriptors; the bus is not told of them here."""

    async def tell_names(self) -> None:
        """Tell the bus the names; returns when it knows them."""


class Reloading:
    """Reads a session's descriptors; one reload runs at a time.

    Args:
        directories, taken: as ``Loader``.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        parts: Parts,
        events: ReloadEvents,
        *,
        taken: Mapping[str, str],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._loader = Loader(directories, parts, self._changed, taken=taken)
        self._events = events
        self._problems: set[str] = set()
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._unasked: asyncio.Task[None] | None = None
        self._open = False

    async def begin(self) -> None:
        """Read them for the first time; further requests wait until ``open``.

        Raises:
            NotReloaded: the system is short of a resource.
        """
        await self._lock.acquire()
        self._loader.make_transient()
        self._take(await self._loader.load())

    def open(self) -> None:
        """Allow reloads: from now on the bus can be told."""
        self._open = True
        self._lock.release()

    def stop(self) -> None:
        """Read them no more; some time before ``close``, as ``Watch.stop``."""
        self._open = False
        self._loader.watch.stop()

    def close(self) -> None:
        """Close the kernel's queue of changes."""
        self._loader.watch.close()

    def look(self) -> None:
        """Read changed descriptors at once, except from directories that may hang."""
        if self._open and self._loader.watch.stale():
            try:
                self._take(self._loader.load_at_once())
            except NotReloaded as e:
                log.warning("the descriptors were not read again: %s", e)

    async def reload(self) -> None:
        """Read the descriptors again, and tell the engine what has changed.

        Requests that come before it has begun share one reload: any client on the bus
        may ask, and a thousand requests would mean minutes of reading.

        Raises:
            ShuttingDown: the session is ending.
            NotReloaded: the system is short of a resource.
        """
        if self._next is None:
            self._next = self._loop.create_task(self._reload())
        await asyncio.shield(self._next)

    async def _reload(self) -> None:
        async with self._lock:
            self._next = None
            self._check_open()
            catalog = await self._loader.load()
            self._check_open()
            self._take(catalog)
            await self._events.tell_names()

    def _check_open(self) -> None:
        if not self._open:
            raise ShuttingDown("the session is ending")

    def _changed(self) -> None:
        self._unasked = self._loop.create_task(self._reload_unasked())

    async def _reload_unasked(self) -> None:
        try:
            await self.reload()
        except (ShuttingDown, Disconnected):
            # The end of the bus is reported elsewhere; a live bus has been given its files.
            pass
        except DBusError as e:
            log.warning("the descriptors were not read again: %s", e)

    def _take(self, catalog: Catalog) -> None:
        problems = dict.fromkeys(map(str, catalog.problems))
        for problem in problems:
            # Logged once, however often the directories are read again.
            if problem not in self._problems:
                log.warning("%s", problem)
        self._problems = set(problems)
        self._events.descriptors_read(catalog.entries)
