"""Reads a session's catalog, repeatedly; a hanging directory delays no other.

A directory on a local disk is read at once. A directory that may be behind a server, or
holds a link to such a place, is read by a fork, which is killed after a timeout: then the
directory's previous contents stay.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from typing import TYPE_CHECKING, Final

from broker.catalog.catalog import Catalog, combine, make_transient, read_directory, without
from broker.catalog.descriptor import Descriptor
from broker.core.printable import printable
from broker.errors import DescriptorError, NotReloaded
from broker.process import local
from broker.session.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    from broker.catalog.catalog import Directory
    from broker.process.parts import Parts

    Found: TypeAlias = list[Descriptor | DescriptorError]

# For the reading of a directory, in seconds; several times what a slow network takes.
TIMEOUT: Final = 3.0


class Loader:
    """The reader of the directories of descriptors.

    Args:
        directories: by precedence.
        on_change: called after a burst of changes, when the directories must be read again.
        taken: names that no descriptor may provide here, each with the reason.

    Attributes:
        watch: of the directories.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        parts: Parts,
        on_change: Callable[[], None],
        *,
        taken: Mapping[str, str],
    ) -> None:
        self._directories = tuple(dict.fromkeys(directories))
        self.watch = Watch((each.path for each in self._directories), on_change)
        self._parts = parts
        self._taken = taken
        self._found: dict[Directory, Found] = {}
        # Directories that did not answer the last time.
        self._silent: set[Directory] = set()
        # The PIDs of killed forks, which may still exist.
        self._given_up: dict[Directory, int] = {}

    def make_transient(self) -> None:
        """Create the user's directory for this login, as dbus-daemon does."""
        make_transient(each for each in self._directories if local.holds(each.path))

    async def load(self) -> Catalog:
        """Read all directories; waits for nothing if all disks are local.

        Raises:
            NotReloaded: the system is short of a resource.
        """
        away = [each for each in self._directories if not local.holds_all_in(each.path)]
        answers = await asyncio.gather(*map(self._read_away, away)) if away else []
        # Local directories last, so that ``load_at_once`` meanwhile has read nothing newer.
        return self._combined(dict(zip(away, answers, strict=True)))

    def load_at_once(self) -> Catalog:
        """Read the local directories; the previous contents of the others stay.

        Raises:
            NotReloaded: as ``load``.
        """
        away = [each for each in self._directories if not local.holds_all_in(each.path)]
        return self._combined({each: self._found.get(each, []) for each in away})

    def _combined(self, away: dict[Directory, Found]) -> Catalog:
        self.watch.begin()
        found = dict(away)
        for directory in self._directories:
            if directory not in found:
                found[directory] = read_directory(directory)
        self._found = found
        self.watch.complain([each.path for each in self._silent])
        in_order = [found[each] for each in self._directories]
        catalog = without(combine(in_order), self._taken)
        # A half-written file is not an error yet.
        whole = [each for each in catalog.problems if not self.watch.unfinished(each.path)]
        return Catalog(catalog.entries, tuple(whole))

    async def _read_away(self, directory: Directory) -> Found:
        answer = await self._ask(directory)
        if isinstance(answer, str):
            raise NotReloaded(answer)
        if answer is not None:
            self._silent.discard(directory)
            return answer
        self._silent.add(directory)
        reason = (
            f"not read: it did not answer within {TIMEOUT:g} s; the descriptors read before stay"
        )
        kept = [each for each in self._found.get(directory, ()) if isinstance(each, Descriptor)]
        return [*kept, DescriptorError(printable(directory.path), 0, reason)]

    async def _ask(self, directory: Directory) -> Found | str | None:
        """What a fork reads, or why it cannot be made; None after the timeout."""
        if self._given_up.get(directory) in self._parts:
            return None  # the last fork still hangs in the kernel, and so would another
        try:
            reader, fd = self._parts.begin(lambda report: _tell(directory, report))
        except OSError as e:
            return f"cannot read the descriptors: {e.strerror}"
        try:
            async with asyncio.timeout(TIMEOUT):
                return _told(await _read_all(fd))
        except TimeoutError:
            self._parts.kill(reader)
            self._given_up[directory] = reader
            return None


# -- the fork's report -------------------------------------------------------------


def _tell(directory: Directory, report: int) -> None:
    """In the fork: read the directory and write the report."""
    # The broker may be gone, and not kill it.
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT + 1)
    answer: Any
    try:
        # Pickled, an exception would lose its fields.
        answer = [
            (each.path, each.line, each.reason) if isinstance(each, DescriptorError) else each
            for each in read_directory(directory)
        ]
    except NotReloaded as e:
        answer = str(e)
    with os.fdopen(report, "wb") as file:
        pickle.dump(answer, file)


def _told(data: bytes) -> Found | str | None:
    """The fork's findings, or its reason for failure; None if it was killed before the end."""
    try:
        answer = pickle.loads(data)  # noqa: S301 - by a fork of ours
    except (EOFError, pickle.UnpicklingError):
        return None
    if isinstance(answer, str):
        return answer
    return [DescriptorError(*each) if isinstance(each, tuple) else each for each in answer]


async def _read_all(fd: int) -> bytes:
    """Read a pipe to its end, and close it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    data = bytearray()

    def on_readable() -> None:
        chunk = os.read(fd, 1 << 16)
        data.extend(chunk)
        if not chunk and not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return bytes(data)
