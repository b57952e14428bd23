"""Runs the services' state machines: feeds them events and carries out their effects.

The caller of a service goes first: a spawn is carried out at once, its signals
on the bus follow later (``api.publisher``).
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
# we find its processes.
KILL_PERIOD = 0.02


class ServiceNews(Protocol):
    """Events about services; their handlers send nothing on the bus before they return."""

    def service_changed(self, unit: Unit) -> None:
        """A service's properties may have changed."""

    def remove_service(self, name: str) -> None:
        """The service has no descriptor and no process any more."""

    def process_forgotten(self, process: Process) -> None:
        """The record of an ended process is dropped."""

    def activation_failed(self, unit: Unit, error: DBusError) -> None:
        """An activation has ended without the name."""

    def log_appended(self, log: Log) -> None:
        """A log has new lines since a client read it."""


class Activator:
    """All activatable services; ``connect`` comes before the first event.

    Attributes:
        units: the services, by name.
        environment: the activation environment.
        users: the values of a descriptor's User that are accepted; None to accept any,
            where User has no meaning.
        explains: whether an error's text may quote the service's last words, or variables
            of its environment.
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
        """Set the engine that requests services, the watch over their names, and the listener."""
        self._engine = engine
        self._names = names
        self._news = news

    def _log_appended(self, log: Log) -> None:
        self._news.log_appended(log)

    # -- events ----------------------------------------------------------------

    def handle(self, unit: Unit, event: Event) -> None:
        """Give an event to a service and carry out its effects.

        Raises:
            Broken: an effect failed, so the service's state is wrong.
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
        """Forget a service that has no descriptor and no process any more."""
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
                # A child of the owner may still use its connection.
                unit.owner = NOBODY
            current = process.activation == unit.activation
            self.handle(unit, ev.ProcessExited(process.pid, process.started, process.exit, current))
            self._sparing.look(unit)

    def activation_emptied(self, name: str) -> None:
        """One of the service's activations has no process left."""
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
        """The name has no owner any more."""
        if name in self.units:
            self.handle(self.units[name], ev.NameLost())

    # -- requests --------------------------------------------------------------

    def requested(self, name: str, token: Token) -> None:
        """The engine wants a name."""
        unit = self.units.get(name)
        if unit is None:
            self._engine.fail(name, token, ServiceUnknown(f"{name} is no longer known"))
        else:
            self.handle(unit, ev.Requested(token))

    async def start(self, unit: Unit) -> None:
        """Activate a service; returns when its name is owned.

        Raises:
            DBusError: the reason of the failure.
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
        """A service's output so far; the next new line calls ``log_appended``, once.

        Raises:
            NotCaptured: output is not kept.
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
        """Refuse all starts from now on, and end every process of every service."""
        units = list(self.units.values())
        for unit in units:
            self.handle(unit, ev.Closing())
        await asyncio.gather(*(self.stop(unit) for unit in units))

    def close_logs(self) -> None:
        """Stop reading output."""
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
                # The descriptor leaves the start to systemd, and has no Exec.
                reason = SpawnFileInvalid(
                    f"{name} can only be started by systemd: "
                    f"{descriptor.path} has SystemdService but no Exec"
                )
                raise SpawnRefusedError(reason, Result.EXEC_FAILED)
            if self.users is not None and descriptor.user not in self.users:
                # Its author counts on that user's rights, which are fewer than root's.
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
        """The process exists already, but cannot execute its program."""
        # Otherwise that start has already ended in another way.
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
            # Output from before its death is still in the pipe.
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
            ask = None  # another SIGKILL needs no question
        elif timer is Timer.SERVING:
            ask = partial(self._ask_serving, unit)
        unit.timer = Deadline(self._loop, delay, ask, partial(self._fire, unit, timer))

    def _ask_first(self, unit: Unit, timer: Timer, answered: Callable[[], None]) -> None:
        deadline = unit.timer

        def on_answer(owner: str) -> None:
            if unit.timer is not deadline:
                return
            if owner and timer in (Timer.ACTIVATION, Timer.HANDOVER):
                # Either the service has an open question about that owner, or the loss
                # of the name is on its way: both come before the next answer.
                self._ask_first(unit, timer, answered)
            else:
                answered()

        self._names.ask(unit.service.name, on_answer)

    def _ask_serving(self, unit: Unit, answered: Callable[[], None]) -> None:
        deadline = unit.timer
        # Without an answer within the deadline's second, all processes are ended: a bus that
        # stands still serves no client, and a hanging service must not stay for ever.
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
        # The unit may have been dropped by now, and its name belong to another one.
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
    """The values of a descriptor's User that mean our own user, the empty one included.

    Called once, before any client waits for us: a network server may be the only source
    of users, and each look-up of a name that is not local asks it.
    """
    uid = os.getuid()
    names = {"", str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    return frozenset(names)


def _say_failed(unit: Unit, error: DBusError) -> None:
    # A closed gate is logged once: an insistent client may be refused thousands of
    # times, and each line would wait for the reader of our log.
    refused = isinstance(error, StartLimitHit)
    if not refused or unit.refused_at != unit.service.failures:
        log.warning("%s: %s", unit.service.name, error)
    if refused:
        unit.refused_at = unit.service.failures
