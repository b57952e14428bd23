"""Passes the signals that reach ``run`` on to the command, or ends the session.

The command gets each signal once. A second signal that asks for an end kills it with
SIGKILL, as docker compose does and people expect, since Ctrl-C and SIGTERM may be ignored.
After a hangup of our terminal no user is left to send a second one: the command gets its
SIGHUP and the stop timeout, and then the session ends with all its processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from broker.core.exits import CLD_KILLED, Exit
from broker.core.signalled import Arrival, Insistence
from broker.process import kernel, procfs
from broker.session import late

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.core.processes import Process
    from broker.process.kernel import Received
    from broker.process.supervisor import Supervisor

# The signals that people and supervisors send to a command. SIGTSTP and SIGCONT are
# left alone: the terminal's job control reaches us and the command.
FORWARDED: Final = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}


class Passing:
    """Reads our signals, which are blocked, until it is closed.

    Args:
        grace: from a hangup to the end, in seconds.

    Attributes:
        ended: the session's exit, if a signal ends it before or without an exit of the command.
        command: the receiver of the signals; before it is set, they end the session.
        hurried: set by a signal after the end of the command.
    """

    def __init__(self, supervisor: Supervisor, grace: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self.command: Process | None = None
        self.hurried = asyncio.Event()
        self._supervisor = supervisor
        self._grace = grace
        self._insistence = Insistence()
        self._timers: dict[Callable[..., None], asyncio.TimerHandle] = {}
        self._fd = kernel.open_signalfd(FORWARDED)
        self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        for timer in self._timers.values():
            timer.cancel()

    def _read(self) -> None:
        for received in kernel.read_signals(self._fd):
            self._take(received)

    def _take(self, received: Received) -> None:
        number = received.number
        # As under nohup: then the command ignores it too, unless it chose otherwise.
        ignored = signal.getsignal(number) is signal.SIG_IGN
        command = self.command
        if command is None or self._supervisor.is_starting(command.pid):
            if command is not None:
                self._supervisor.signal_process(command.pid, number)
            # If its disk does not answer, it may sleep in the kernel, deaf to signals.
            if not ignored:
                self._end(number)
            return
        if not command.running:
            self.hurried.set()
            return
        arrival = Arrival(
            number,
            by_kernel=received.code == kernel.SI_KERNEL,
            leading=os.getsid(0) == os.getpid(),
            together=os.getpgid(command.pid) == os.getpgrp(),
            taken=procfs.takes(command.pid, number),
        )
        if not arrival.had:
            self._supervisor.signal_process(command.pid, number)
        if arrival.hangup and not ignored:
            # A stopped command takes the SIGHUP only when it continues.
            self._supervisor.signal_process(command.pid, signal.SIGCONT)
            self._later(late.SAID_AFTER, self._say, "")
            self._later(self._grace, self._end, number)
        elif arrival.insists:
            self._count(number, received.sender)

    def _count(self, number: signal.Signals, sender: int) -> None:
        grace = self._grace if sender == os.getpgrp() else 0.0
        delay = self._insistence.again(number, self._loop.time(), grace)
        if delay is None:
            if number != signal.SIGHUP:  # a SIGHUP may ask for a reload
                self._later(late.SAID_AFTER, self._say, f": a second {number.name} kills it")
        elif delay > 0:
            self._later(delay, self._kill, number)
        else:
            self._kill(number)

    def _later(self, delay: float, function: Callable[..., None], argument: Any) -> None:
        if function not in self._timers:
            self._timers[function] = self._loop.call_later(delay, function, argument)

    def _say(self, hint: str) -> None:
        if self.command is not None and self.command.running:
            late.say(f"waiting for the command  {late.described(self.command.pid)}{hint}")

    def _kill(self, number: signal.Signals) -> None:
        if self.command is not None and self.command.running:
            late.say(f"the command has survived {number.name}, and is killed")
            self._supervisor.signal_process(self.command.pid, signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(CLD_KILLED, number))
