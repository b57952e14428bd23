"""When the descriptors are read: at the start, when somebody asks, and when they have changed."""

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
    """What a reload does beyond the reading."""

    def descriptors_read(self, descriptors: Mapping[str, Descriptor]) -> None:
        """These are the services now; the bus is not told of them here."""

    async def tell_names(self) -> None:
        """Tell the bus; returns when it knows."""


class Reloading:
    """The reading of a session's descriptors, one after the other.

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
        """Read them for the first time; whoever asks for more waits until ``open``.

        Raises:
            NotReloaded: the system is short of something that is needed.
        """
        await self._lock.acquire()
        self._loader.make_transient()
        self._take(await self._loader.load())

    def open(self) -> None:
        """From here on the bus can be told."""
        self._open = True
        self._lock.release()

    def stop(self) -> None:
        """Read them no more; some time before ``close``, as ``Watch.stop``."""
        self._open = False
        self._loader.watch.stop()

    def close(self) -> None:
        """Let go of the kernel's queue of changes."""
        self._loader.watch.close()

    def look(self) -> None:
        """Read what has changed, as far as nothing can hang, before this returns."""
        if self._open and self._loader.watch.stale():
            try:
                self._take(self._loader.load_at_once())
            except NotReloaded as e:
                log.warning("the descriptors were not read again: %s", e)

    async def reload(self) -> None:
        """Read the descriptors again, and tell the engine what has changed.

        Whoever asks before it has begun is served by the same one: anybody on the
        bus may ask, and thousands of them would be minutes of reading.

        Raises:
            ShuttingDown: the session is ending.
            NotReloaded: the system is short of something that is needed.
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
            # The end of the bus is said by others; one that lives has seen the files for it.
            pass
        except DBusError as e:
            log.warning("the descriptors were not read again: %s", e)

    def _take(self, catalog: Catalog) -> None:
        problems = dict.fromkeys(map(str, catalog.problems))
        for problem in problems:
            # Said once, however often the directories are read again.
            if problem not in self._problems:
                log.warning("%s", problem)
        self._problems = set(problems)
        self._events.descriptors_read(catalog.entries)
