"""The parent of all processes: starts them with marks, adopts, reaps and signals them.

"All processes of a service" are our children on record for it, and the descendants
of those. Orphans become our children, so the tree below us holds every process that
was ever started here; there is nothing else to search.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from broker.core.attribution import Attribution, Origin
from broker.core.printable import bounded_words
from broker.core.processes import Processes
from broker.process import clock, killer, local, procfs, reaper, spare
from broker.process.activations import NO_ACTIVATION, Activations
from broker.process.emptied import Emptied
from broker.process.guardian import Guardian
from broker.process.inherited import Inherited
from broker.process.kills import Kills
from broker.process.parts import Parts
from broker.process.spawn import Program, SpawnRefusedError, paths, spawn
from broker.process.starts import Starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker.core.clock import Instant
    from broker.core.processes import Process, ProcessEvents
    from broker.process.procfs import Stat
    from broker.process.reaper import Death

log = logging.getLogger(__name__)


class Supervisor:
    """Owner of every child of this process, from ``begin`` on.

    Attributes:
        processes: the records.
        parts: forks of ours, which like the guardian are not on record.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, events: ProcessEvents) -> None:
        self._inherited = Inherited(self._bears_marks)
        self.processes = Processes()
        self._loop = loop
        self._events = events
        self._activations = Activations(loop)
        self._starts = Starts(loop)
        self._guardian = Guardian()
        self._emptied = Emptied(
            lambda activation: bool(self.processes.of_activation(activation)), self._adopt_orphan
        )
        self._kills = Kills(self.processes, self._activations, self._is_apart, self._guardian.knows)
        self._next_batch: asyncio.Handle | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.parts = Parts(self._activations.cgroups)

    def begin(self) -> None:
        """Take over: from now on children can be started, and all are reaped.

        Raises:
            KernelRefused: the system does not let us reap.
        """
        reaper.check()
        spare.reserve()
        local.begin()
        self._activations.cgroups.begin()

    def guard(self, stop_timeout: float = 0.0, *, silent: bool = False) -> None:
        """Start the guardian, which ends all processes if we are killed; before the first spawn.

        The guardian is a part of us. It is not on record, and no signal to our processes
        reaches it.

        Args:
            stop_timeout: from SIGTERM to SIGKILL, in seconds.
            silent: the guardian logs nothing on our standard error, which we will release.
        """
        activations = self._activations
        self._guardian.begin(activations.tags, activations.cgroups, stop_timeout, silent=silent)

    def end_last(self, pid: int, kept: Sequence[int]) -> None:
        """Name the process that is ended after all others if we are killed: the bus.

        Args:
            kept: descriptors that stay open until then.
        """
        self._guardian.end_last(pid, kept)

    # -- starting --------------------------------------------------------------

    def spawn(
        self,
        program: Program,
        service: str = "",
        on_refused: Callable[[SpawnRefusedError], None] = lambda refused: log.error("%s", refused),
    ) -> Process:
        """Start a program as a new activation of a service, or of none.

        Args:
            on_refused: called later, before the process is reaped, if the program cannot be
                executed after all; only if its file system may be slow to answer.

        Raises:
            SpawnRefusedError: no process was started.
        """
        alone = self._activations.settled
        activation = self._activations.begin()
        beginning = clock.beginning()  # before the spawn: after it, the child may have forked
        try:
            if all(local.executes(path) for path in paths(program)):
                pid = spawn(program)
                if alone:
                    # We wake on the child's CPU, and would do our bookkeeping there before it
                    # runs; in a burst of spawns that order is the better one.
                    with contextlib.suppress(OSError):  # a filter may forbid it: that costs time
                        os.sched_yield()
            else:
                pid = self._starts.begin(program, on_refused)
        except SpawnRefusedError:
            self._activations.withdraw(activation)
            raise
        leader = pid if program.session else None
        self._activations.begun(activation, service, beginning, leader)
        return self._record(
            pid, activation, Origin.SPAWNED, Attribution.SPAWNED, bounded_words(program.argv)
        )

    def is_starting(self, pid: int) -> bool:
        """Whether a process that we started may not have executed its program yet."""
        return self._starts.look(pid)

    def _record(
        self,
        pid: int,
        activation: int,
        origin: Origin,
        attribution: Attribution,
        command: tuple[str, ...],
        about: Stat | None = None,
    ) -> Process:
        process = self.processes.add(
            pid,
            ppid=about.ppid if about else os.getpid(),
            service=self._activations.service(activation),
            activation=activation,
            origin=origin,
            attribution=attribution,
            started=self._activations.started(activation, about),
            command=command,
        )
        self._events.process_started(process)
        return process

    # -- attribution -----------------------------------------------------------

    def service_of(self, pid: int) -> str | None:
        """The service of a process, whether it is our child or not.

        Returns:
            empty for a process of the broker that belongs to no service; None for a
            process that is not the broker's.
        """
        found = self.activation_of(pid)
        return None if found is None else found[0]

    def activation_of(self, pid: int) -> tuple[str, int] | None:
        """The service, as from ``service_of``, and the serial of the activation."""
        if pid == os.getpid() or self._is_part(pid):
            # We bear the marks of our last start ourselves.
            return None
        process = self.processes.get(pid)
        if process is not None:
            return process.service, process.activation
        activation, _ = self._activations.attribute(pid)
        if activation != NO_ACTIVATION:
            return self._activations.service(activation), activation
        for ancestor in procfs.ancestors(pid):
            process = self.processes.get(ancestor)
            if process is not None:
                return process.service, process.activation
        return None

    def started(self, about: Stat, activation: int) -> Instant:
        """When a process of an activation, or of none (0), was started."""
        return self._activations.started(activation, about)

    def adopt(self) -> None:
        """Find the orphans that have become our children: the kernel sends no notice."""
        for pid in procfs.children():
            self._adopt(pid)

    def adopt_above(self, pid: int) -> None:
        """Adopt only the orphan that a process is, or descends from, to save time."""
        for ancestor in procfs.ancestors(pid):
            if ancestor == os.getpid():
                self._adopt(pid)
                return
            pid = ancestor

    def _is_part(self, pid: int) -> bool:
        return pid == self._guardian.pid or pid in self.parts

    def _is_apart(self, pid: int) -> bool:
        return self._is_part(pid) or self._inherited.has(pid)

    def _adopt(self, pid: int) -> None:
        if pid not in self.processes and not self._is_apart(pid):
            self._take(pid, procfs.stat(pid))

    def _adopt_orphan(self, pid: int) -> bool:
        """Adopt one child of a list that may be old; False if it was known before."""
        if pid in self.processes or self._is_apart(pid):
            return False
        about = procfs.stat(pid)
        # It may have been reaped since the list was made, and its PID reused.
        if about is not None and about.ppid == os.getpid():
            self._take(pid, about)
        return True

    def _bears_marks(self, pid: int) -> bool:
        return not self._activations.never_saw(pid) or self._guardian.knows(pid)

    def _take(self, pid: int, about: Stat | None) -> None:
        activation, how = self._activations.attribute(pid, about)
        self._kills.adopted(pid, activation)
        command = procfs.command(pid, about)
        self._record(pid, activation, Origin.ADOPTED, how, command, about)

    # -- reaping ---------------------------------------------------------------

    def reap(self) -> None:
        """Reap dead children; schedules itself again while there are more."""
        # One batch in each turn of the loop, however many signals come meanwhile.
        if self._next_batch is None:
            self._reap_batch()

    def _reap_batch(self) -> None:
        # Before all else: a fault with one process must not leave other deaths
        # unnoticed, since the shutdown waits for every process.
        self._next_batch = self._loop.call_soon(self._reap_batch)
        self._kills.chase()
        done = reaper.reap(self._identify, self._on_death)
        for activation, service in self._emptied.find():
            self._kills.end(activation)
            if activation != NO_ACTIVATION:
                self._activations.forget(activation)
                self._events.activation_emptied(activation, service)
        if done and self._emptied.settled:
            self._next_batch.cancel()
            self._next_batch = None
        for predicate, waiter in self._waiters:
            if not waiter.done() and predicate():
                waiter.set_result(None)

    def _identify(self, pid: int) -> None:
        # Its own report of a failed exec, if any, while its PID is not reused.
        self._starts.look(pid)
        self._adopt(pid)

    def _on_death(self, death: Death) -> None:
        if death.pid == self._guardian.pid:
            self._guardian.lost(death.exit, clock.now())
            return
        if self.parts.reaped(death.pid):
            return
        process = self.processes.get(death.pid)
        if process is None:
            # Its exit is of no interest here.
            self._inherited.reaped(death.pid)
            return
        self._emptied.note_death(process.activation, process.service)
        usage = reaper.without_inherited_peak(death.usage, process)
        self._events.process_exited(*self.processes.end(death.pid, death.exit, usage, clock.now()))

    async def until(self, predicate: Callable[[], bool], timeout: float | None) -> bool:  # noqa: ASYNC109
        """Wait until ``predicate`` holds; it is checked whenever children were reaped.

        Returns:
            False if it did not hold within ``timeout`` seconds.
        """
        self.adopt()
        if predicate():
            return True
        waiter = (predicate, self._loop.create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        except TimeoutError:
            # Deaths from a time when this process stood still may be unread.
            self.reap()
            return predicate()
        finally:
            self._waiters.remove(waiter)
        return True

    # -- all processes of a service --------------------------------------------

    def tree(self, service: str | None) -> list[int]:
        """Every live process of a service, of none (empty), or of all of them (None).

        Parents come before their children.
        """
        self.adopt()
        return procfs.with_descendants(
            process.pid
            for process in self.processes.live()
            if service is None or process.service == service
        )

    def signal(self, service: str | None, number: int, spare: int = 0) -> int:
        """Send a signal to every process of a service, or of all of them (None).

        SIGKILL applies to their later forks, too.

        Args:
            spare: the PID of a process on record that does not get the signal.

        Returns:
            how many processes got it.
        """
        if number == signal.SIGKILL and not self._kill(service, spare):
            # They have had it: their orphans come to us, and get it then. Another search
            # would cost the time that we need to be faster than their forks.
            if service is None:
                return len(self.processes)
            return len(self.processes.of_service(service))
        return self._signal_each([pid for pid in self.tree(service) if pid != spare], number)

    def _kill(self, service: str | None, spare: int) -> bool:
        """Begin to kill; returns whether that is new for some of the service's activations."""
        if self._next_batch is None:
            # Otherwise dead children wait to be reaped: their orphans are found then.
            self.adopt()
        if not service and len(self.processes):
            # There may be no process without activation: the next death ends that kill.
            self._emptied.note_death(NO_ACTIVATION, "")
        spared = self.processes.get(spare)
        return self._kills.begin(service, spared.activation if spared else None)

    def signal_process(self, pid: int, number: int) -> bool:
        """Send a signal to one process of ours; False if it has gone."""
        return self._signal_each([pid], number) == 1

    def _signal_each(self, pids: Iterable[int], number: int) -> int:
        sent = 0
        for pid in pids:
            try:
                self._signal_safely(pid, number)
            except ProcessLookupError:
                continue
            except PermissionError:
                log.warning("process %d is another user's and cannot be ended", pid)
                continue
            except OSError as e:
                # Only this process goes without. If it is not our child yet, it becomes one
                # when its parent ends, and can then be signalled without a descriptor.
                log.warning("process %d cannot be signalled: %s", pid, e.strerror)
                continue
            sent += 1
            if number == signal.SIGTERM:
                # A stopped process takes the SIGTERM only when it continues.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    self._signal_safely(pid, signal.SIGCONT)
        return sent

    def _signal_safely(self, pid: int, number: int) -> None:
        if pid in self.processes:
            # Our own child keeps its PID until we reap it.
            os.kill(pid, number)
            return
        with spare.borrowed(), killer.held(pid) as send:
            # The PID may have been reused since it was listed. The descriptor refers to
            # its current holder, so we look again now. (Its parent may have ended since,
            # and left it to us.)
            if os.getpid() not in procfs.ancestors(pid):
                raise ProcessLookupError(f"process {pid} is not below us")
            send(number)

    def close(self) -> None:
        """Leave the cgroups and end the guardian, after all started processes have ended."""
        self._kills.close()
        self._starts.close()
        self.parts.close()
        self._activations.close()
        spare.release()
        self._guardian.end()
