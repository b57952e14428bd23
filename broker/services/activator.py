"""Runs the services' state machines: events to them, their effects to the rooms.

What the caller of a service waits for goes first: a spawn is carried out at
once, what is said about it on the bus comes later (``api.publisher``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

from broker.core import events as ev
from broker.core import reasons
from broker.core.events import Effect, Event, Timer, Token
from broker.core.exits import Result
from broker.core.printable import quoted
from broker.core.state import State
from broker.errors import (
    Broken,
    DBusError,
    NotCaptured,
    ServiceUnknown,
    SpawnFileInvalid,
    StartLimitHit,
)
from broker.process import clock
from broker.process.capture import Capture
from broker.process.peer import NOBODY, Peer
from broker.process.spawn import Program, SpawnRefusedError
from broker.services import owners
from broker.services.deadline import Deadline
from broker.services.limits import Output
from broker.services.sparing import Sparing
from broker.services.units import Units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from broker.bus.names import NameWatch
    from broker.core.log import Log
    from broker.core.processes import Process
    from broker.engine.base import Engine
    from broker.process.supervisor import Supervisor
    from broker.services.limits import Limits
    from broker.services.units import Unit

log = logging.getLogger(__name__)

# Between two rounds of SIGKILL, in seconds, while a service forks faster than
# it is found.
KILL_PERIOD = 0.02


class ServiceNews(Protocol):
    """What is told of services; nothing is said on the bus from within the telling."""

    def service_changed(self, unit: Unit) -> None:
        """A service's properties may have changed."""

    def remove_service(self, name: str) -> None:
        """Its descriptor has gone, and nothing of it runs."""

    def process_forgotten(self, process: Process) -> None:
        """The record of an ended process is dropped."""

    def activation_failed(self, unit: Unit, error: DBusError) -> None:
        """An activation has ended without the name."""

    def log_appended(self, log: Log) -> None:
        """There is more in a log than when somebody read it."""


class Activator:
    """All services that can be started; ``connect`` comes before the first event.

    Attributes:
        units: what there is to be started.
        environment: what a service is started with.
        users: all that descriptors may say a service is to run as; None where they
            may say anything, since it has no meaning.
        explains: whether the text of an error may say what the service wrote last, or what
            is in its environment.
    """

    _engine: Engine
    _names: NameWatch
    _news: ServiceNews

    def __init__(self, limits: Limits, supervisor: Supervisor, *, output: Output) -> None:
        self.units = Units(limits, logged=output is Output.CAPTURE)
        self.environment: dict[str, str] = {}
        self.bus_environment: dict[str, str] = {}
        self.users: frozenset[str] | None = None
        self.explains = True
        self._limits = limits
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._sparing = Sparing(
            self._loop, supervisor, lambda unit: self.handle(unit, ev.OnlyServing())
        )
        self._null_output = output is Output.NULL
        self._capture: Capture | None = None
        if output is Output.CAPTURE:
            self._capture = Capture(self._loop, self._log_appended)

    def connect(self, engine: Engine, names: NameWatch, news: ServiceNews) -> None:
        """Work with these: who asks for services, who knows their owners, who is told."""
        self._engine = engine
        self._names = names
        self._news = news

    def _log_appended(self, log: Log) -> None:
        self._news.log_appended(log)

    # -- events ----------------------------------------------------------------

    def handle(self, unit: Unit, event: Event) -> None:
        """Give an event to a service and carry out what it asks for.

        Raises:
            Broken: not all of it was done, so the service is not as its state says.
        """
        try:
            for effect in unit.service.handle(event, clock.now()):
                self._perform(unit, effect)
        except Broken:
            raise
        except Exception as e:
            raise Broken(f"{unit.service.name}: {type(event).__name__} failed half-way: {e}") from e
        self._news.service_changed(unit)
        if self.units.drop_if_over(unit):
            self.forget(unit)

    def forget(self, unit: Unit) -> None:
        """A service without a descriptor, of which nothing runs any more, is known no longer."""
        name = unit.service.name
        self._names.forget(name)
        for process in self._supervisor.processes.forget(name):
            self._news.process_forgotten(process)
        self._news.remove_service(name)

    def process_exited(self, process: Process) -> None:
        """A process was reaped."""
        unit = self.units.get(process.service)
        if unit is not None:
            if process.pid == unit.owner.pid:
                # A child of it may go on with its connection.
                unit.owner = NOBODY
            current = process.activation == unit.activation
            self.handle(unit, ev.ProcessExited(process.pid, process.started, process.exit, current))
            self._sparing.look(unit)

    def activation_emptied(self, name: str) -> None:
        """An activation of the service has no process left."""
        unit = self.units.get(name)
        if unit is None:
            return
        processes = self._supervisor.processes
        if not processes.of_activation(unit.activation):
            self.handle(unit, ev.Emptied(all_gone=not processes.of_service(name)))

    def name_acquired(self, name: str, owner: str, pid: int | None, heard: float) -> None:
        """A connection took the name; see ``NameEvents``."""
        unit = self.units.get(name)
        if unit is not None:
            unit.owner = Peer.seen(pid or 0)
            self.handle(unit, owners.acquired(self._supervisor, unit, owner, pid, heard))

    def name_lost(self, name: str) -> None:
        """Nobody owns the name any more."""
        if name in self.units:
            self.handle(self.units[name], ev.NameLost())

    # -- requests --------------------------------------------------------------

    def requested(self, name: str, token: Token) -> None:
        """The engine wants a name."""
        unit = self.units.get(name)
        if unit is None:
            self._engine.fail(name, token, ServiceUnknown(f"{name} is not known any more"))
        else:
            self.handle(unit, ev.Requested(token))

    async def start(self, unit: Unit) -> None:
        """Activate a service; returns when its name is owned.

        Raises:
            DBusError: the reason why it will not be.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self.handle(unit, ev.Requested(done))
        await done

    async def stop(self, unit: Unit) -> None:
        """End every process of a service; returns when none is left."""
        done: asyncio.Future[None] = self._loop.create_future()
        unit.stopping.append(done)
        self.handle(unit, ev.StopRequested())
        await done

    def log(self, unit: Unit) -> Log:
        """All that a service has written; when there is more, ``log_appended`` says so once.

        Raises:
            NotCaptured: it is not kept.
        """
        if unit.log is None:
            raise NotCaptured(
                "the output of services is not kept: the broker was started "
                f"without --output={Output.CAPTURE}"
            )
        self._drain(unit)
        unit.log.asked = True
        return unit.log

    def _drain(self, unit: Unit) -> None:
        if self._capture is not None and unit.log is not None:
            self._capture.read_all(unit.log)

    async def close(self) -> None:
        """Start nothing any more, and end every process of every service."""
        units = list(self.units.values())
        for unit in units:
            self.handle(unit, ev.Closing())
        await asyncio.gather(*(self.stop(unit) for unit in units))

    def close_logs(self) -> None:
        """Read no output any more."""
        if self._capture is not None:
            self._capture.close()

    # -- effects ---------------------------------------------------------------

    def _perform(self, unit: Unit, effect: Effect) -> None:
        match effect:
            case ev.Spawn():
                self._spawn(unit)
            case ev.ArmTimer(timer):
                self._arm(unit, timer)
            case ev.CancelTimer():
                self._disarm(unit)
            case ev.ConfirmOwner():
                self._names.ask(unit.service.name, lambda owner: self._owner_confirmed(unit, owner))
            case ev.CompleteActivation(tokens, sure):
                self._complete(unit, tokens, sure=sure)
            case ev.FailActivation(tokens, error):
                self._fail(unit, tokens, error)
            case ev.SignalAll(number, sparing=True):
                self._sparing.signal(unit, number)
            case ev.SignalAll(number):
                self._supervisor.signal(unit.service.name, number)
            case ev.CompleteStop():
                stopping, unit.stopping = unit.stopping, []
                for future in stopping:
                    if not future.done():
                        future.set_result(None)
            case _:
                assert_never(effect)

    def _spawn(self, unit: Unit) -> None:
        descriptor = unit.descriptor
        name = unit.service.name
        serial = unit.service.activations
        try:
            if not descriptor.argv:
                # Its Exec belongs to systemd, and there is none.
                reason = SpawnFileInvalid(
                    f"{name} can only be started by systemd: "
                    f"{descriptor.path} has SystemdService but no Exec"
                )
                raise SpawnRefusedError(reason, Result.EXEC_FAILED)
            if self.users is not None and descriptor.user not in self.users:
                # Whoever wrote it counts on that user's rights, which are less than root's.
                reason = SpawnFileInvalid(
                    f"{name} is for the user {quoted(descriptor.user)}, and the broker does not "
                    f"change to another user: {descriptor.path}"
                )
                raise SpawnRefusedError(reason, Result.EXEC_FAILED)
            with self._outputs(unit) as fds:
                program = Program(
                    argv=descriptor.argv,
                    name=name,
                    environ=self.environment | self.bus_environment,
                    null_output=self._null_output,
                    fds=fds,
                    explains=self.explains,
                )
                process = self._supervisor.spawn(
                    program, name, lambda refused: self._refused(unit, serial, refused)
                )
        except SpawnRefusedError as e:
            event: Event = ev.SpawnRefused(e.error, e.result)
        else:
            unit.activation = process.activation
            event = ev.Spawned(process.pid, process.started)
        unit.invocation_id = os.urandom(16)
        self.handle(unit, event)

    def _refused(self, unit: Unit, serial: int, refused: SpawnRefusedError) -> None:
        """The program of a process that exists already cannot be executed."""
        # Else that start has ended by now in another way.
        if serial == unit.service.activations and unit.service.state is State.START:
            self.handle(unit, ev.SpawnRefused(refused.error, refused.result))

    def _outputs(self, unit: Unit) -> AbstractContextManager[Mapping[int, int]]:
        if self._capture is None or unit.log is None:
            return contextlib.nullcontext({})
        return self._capture.outputs(unit.log, unit.service.activations)

    def _complete(self, unit: Unit, tokens: tuple[Token, ...], *, sure: bool) -> None:
        for future in _futures(tokens):
            future.set_result(None)
        if not sure:
            for token in _requests(tokens):
                self._engine.dismiss(unit.service.name, token)

    def _fail(self, unit: Unit, tokens: tuple[Token, ...], error: DBusError) -> None:
        name = unit.service.name
        if unit.log is not None:
            # What it wrote before it died is in the pipe since then.
            self._drain(unit)
        if unit.log is not None and self.explains:
            error = reasons.explained(error, unit.log.last_words(unit.service.activations))
        for token in _requests(tokens):
            self._engine.fail(name, token, error)
        _say_failed(unit, error)
        self._news.activation_failed(unit, error)
        for future in _futures(tokens):
            future.set_exception(error)

    def _arm(self, unit: Unit, timer: Timer) -> None:
        assert unit.timer is None
        delay = {
            Timer.ACTIVATION: self._limits.activation_timeout,
            Timer.HANDOVER: self._limits.handover_timeout,
            Timer.SERVING: 0.0,
            Timer.STOP: self._limits.stop_timeout,
            Timer.KILL: KILL_PERIOD,
        }[timer]
        ask: Callable[[Callable[[], None]], None] | None = partial(self._ask_first, unit, timer)
        if timer is Timer.KILL:
            ask = None  # SIGKILL once more is no verdict
        elif timer is Timer.SERVING:
            ask = partial(self._ask_serving, unit)
        unit.timer = Deadline(self._loop, delay, ask, partial(self._fire, unit, timer))

    def _ask_first(self, unit: Unit, timer: Timer, answered: Callable[[], None]) -> None:
        deadline = unit.timer

        def on_answer(owner: str) -> None:
            if unit.timer is not deadline:
                return
            if owner and timer in (Timer.ACTIVATION, Timer.HANDOVER):
                # The service has still a question of its own about that owner, or the
                # loss of the name is on its way: both come before the next answer.
                self._ask_first(unit, timer, answered)
            else:
                answered()

        self._names.ask(unit.service.name, on_answer)

    def _ask_serving(self, unit: Unit, answered: Callable[[], None]) -> None:
        deadline = unit.timer
        # Without an answer within the second that a deadline waits for it, all are ended: on
        # a bus that stands still nobody is served, and what hangs is not to stay for ever.
        unit.serving = frozenset()

        def on_answer(owners: frozenset[int]) -> None:
            if unit.timer is deadline:
                self._sparing.note(unit, owners)
                answered()

        self._names.ask_processes(on_answer)

    def _disarm(self, unit: Unit) -> None:
        if unit.timer is not None:
            unit.timer.cancel()
            unit.timer = None

    def _owner_confirmed(self, unit: Unit, owner: str) -> None:
        # By now it may have left the table, and its name be another one's.
        if self.units.get(unit.service.name) is unit:
            self.handle(unit, ev.OwnerConfirmed(owner))

    def _fire(self, unit: Unit, timer: Timer) -> None:
        unit.timer = None
        self.handle(unit, ev.TimerFired(timer))


def _requests(tokens: Iterable[Token]) -> Iterable[Token]:
    return (token for token in tokens if not isinstance(token, asyncio.Future))


def _futures(tokens: Iterable[Token]) -> Iterable[asyncio.Future[None]]:
    for token in tokens:
        if isinstance(token, asyncio.Future) and not token.done():
            yield token


def own_users() -> frozenset[str]:
    """What a descriptor's User may say of our own user, or not say at all.

    To be called once, before anybody waits for us: the users may be known to a server
    in the network alone, and to look up a name that is none of ours asks that first.
    """
    uid = os.getuid()
    names = {"", str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    return frozenset(names)


def _say_failed(unit: Unit, error: DBusError) -> None:
    # A closed gate is said once: it is shut in the face of thousands where a client
    # insists, and each line would wait for the reader of our log.
    refused = isinstance(error, StartLimitHit)
    if not refused or unit.refused_at != unit.service.failures:
        log.warning("%s: %s", unit.service.name, error)
    if refused:
        unit.refused_at = unit.service.failures
