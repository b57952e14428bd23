"""The parent of them all: starts processes under marks, adopts, reaps, signals.

What counts as "all processes of a service": its children of ours that are on
record, and what descends from those. Orphans become our children, so the tree
below us holds everything that was ever started here; there is nothing else to
search.
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
        parts: forks of ours, which are not on record, as the guardian is not.
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
        """Take over: from here on children can be started, and all are reaped.

        Raises:
            KernelRefused: the system does not let us reap.
        """
        reaper.check()
        spare.reserve()
        local.begin()
        self._activations.cgroups.begin()

    def guard(self, stop_timeout: float = 0.0, *, silent: bool = False) -> None:
        """Have all that is started from now on ended when we are killed: before the first spawn.

        The guardian is a part of us. It is not on record, and no signal to what we
        have started reaches it.

        Args:
            stop_timeout: from SIGTERM to SIGKILL, in seconds.
            silent: nothing is said of it on our standard error, which we will let go.
        """
        activations = self._activations
        self._guardian.begin(activations.tags, activations.cgroups, stop_timeout, silent=silent)

    def end_last(self, pid: int, kept: Sequence[int]) -> None:
        """Have a process, the bus, ended behind all others when we are killed.

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
            on_refused: called later if the program's file system may not answer, and the
                program cannot be executed after all: before its process is reaped.

        Raises:
            SpawnRefusedError: there is no process.
        """
        alone = self._activations.settled
        activation = self._activations.begin()
        beginning = clock.beginning()  # not behind the spawn: the child may have forked by then
        try:
            if all(local.executes(path) for path in paths(program)):
                pid = spawn(program)
                if alone:
                    # We wake on the child's CPU and would do our books there before it
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

    # -- whose it is -----------------------------------------------------------

    def service_of(self, pid: int) -> str | None:
        """The service that a process belongs to, child of ours or not.

        Returns:
            empty for a process of the broker's that belongs to no service; None
            for one that is not the broker's.
        """
        found = self.activation_of(pid)
        return None if found is None else found[0]

    def activation_of(self, pid: int) -> tuple[str, int] | None:
        """The service, as ``service_of`` says it, and the serial of the activation."""
        if pid == os.getpid() or self._is_part(pid):
            # We bear the marks of what we started last.
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
        """When a process was started that is of an activation, or of none (0)."""
        return self._activations.started(activation, about)

    def adopt(self) -> None:
        """Find the orphans that have become our children: the kernel does not tell."""
        for pid in procfs.children():
            self._adopt(pid)

    def adopt_above(self, pid: int) -> None:
        """Find the one orphan that a process is, or descends from; the others cost no time."""
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
        """The same for a child in a list that may be old; False if it was known before."""
        if pid in self.processes or self._is_apart(pid):
            return False
        about = procfs.stat(pid)
        # It may have been reaped since the list was made, and its PID be another's.
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
        """Reap what is dead; comes back by itself while there is more."""
        # A batch in each turn of the loop, however many signals come meanwhile.
        if self._next_batch is None:
            self._reap_batch()

    def _reap_batch(self) -> None:
        # Before all else: a fault with one process must not leave the others dead
        # and unnoticed, since whoever ends the session waits for every one.
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
        # Why it is dead, if it says so itself, while its PID is still its own.
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
            # Nobody asks us how it ended.
            self._inherited.reaped(death.pid)
            return
        self._emptied.note_death(process.activation, process.service)
        usage = reaper.without_inherited_peak(death.usage, process)
        self._events.process_exited(*self.processes.end(death.pid, death.exit, usage, clock.now()))

    async def until(self, predicate: Callable[[], bool], timeout: float | None) -> bool:  # noqa: ASYNC109
        """Wait until something is so, looked at whenever children were reaped.

        Returns:
            False if it was not within ``timeout`` seconds.
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
            # Late is not dead: those that ended while this process stood still are unread.
            self.reap()
            return predicate()
        finally:
            self._waiters.remove(waiter)
        return True

    # -- all processes of a service --------------------------------------------

    def tree(self, service: str | None) -> list[int]:
        """Every live process of a service, of none (empty), or of all of them (None).

        Parents stand before their children.
        """
        self.adopt()
        return procfs.with_descendants(
            process.pid
            for process in self.processes.live()
            if service is None or process.service == service
        )

    def signal(self, service: str | None, number: int, spare: int = 0) -> int:
        """Send a signal to every process of a service, or of all of them (None).

        SIGKILL is for what they fork from then on, too.

        Args:
            spare: the PID of a process on record that does not get it.

        Returns:
            how many got it.
        """
        if number == signal.SIGKILL and not self._kill(service, spare):
            # They have had it: what is left comes to us, and gets it then. To search for
            # it again would take the time that is needed to be faster than it forks.
            if service is None:
                return len(self.processes)
            return len(self.processes.of_service(service))
        return self._signal_each([pid for pid in self.tree(service) if pid != spare], number)

    def _kill(self, service: str | None, spare: int) -> bool:
        """Whether that is new for some of the service's activations."""
        if self._next_batch is None:
            # Else there are dead to be reaped: what they have left is found then.
            self.adopt()
        if not service and len(self.processes):
            # There may be none of no activation: then that is over with the next death.
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
                # It costs this process alone. If it is no child of ours yet, it becomes one
                # when its parent ends, and needs no descriptor to be signalled then.
                log.warning("process %d cannot be signalled: %s", pid, e.strerror)
                continue
            sent += 1
            if number == signal.SIGTERM:
                # A stopped process takes it only when it goes on.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    self._signal_safely(pid, signal.SIGCONT)
        return sent

    def _signal_safely(self, pid: int, number: int) -> None:
        if pid in self.processes:
            # Our own child: its PID is its own until we reap it.
            os.kill(pid, number)
            return
        with spare.borrowed(), killer.held(pid) as send:
            # The PID may have been given to somebody else since it was listed; the
            # descriptor holds whoever has it now, so now is the time to look. Its
            # parent may have ended since, and left it to us.
            if os.getpid() not in procfs.ancestors(pid):
                raise ProcessLookupError(f"process {pid} is not below us")
            send(number)

    def close(self) -> None:
        """Leave the cgroups, and be guarded no more: when all that was started has ended."""
        self._kills.close()
        self._starts.close()
        self.parts.close()
        self._activations.close()
        spare.release()
        self._guardian.end()
