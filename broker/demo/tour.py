"""The part of ``dbus-activator demo`` that runs as a client on its bus."""

from __future__ import annotations

import asyncio
import os
from signal import SIGSEGV
from typing import Any

from broker.cli import exits, tree
from broker.client import MANAGER, ROOT, SERVICE, Client, Signal
from broker.errors import RemoteError

DEMO = "org.activation.Demo"


def say(text: str = "") -> None:
    """A line for the spectator."""
    print(text, flush=True)


class Tour:
    """Calls services, and tells what the broker says about them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._signals: asyncio.Queue[Signal] = asyncio.Queue()

    async def run(self) -> None:
        """The stations, one after the other."""
        await self._client.subscribe(self._signals.put_nowait)
        await self._echo()
        await self._daemon()
        await self._crash()
        await self._failure()

    async def _echo(self) -> None:
        say("A plain method call starts a service")
        say(f"  $ busctl call {DEMO}.Echo /org/activation/Demo {DEMO} Echo s hello")
        say(f"  -> {await self._call('Echo', 'Echo', 's', 'hello')!r}")
        took = await self._get("Echo", "ActivationUSec") / 1000
        say(f"  PID {await self._get('Echo', 'MainPID')}, {took:.0f} ms from the call to the name")
        say()

    async def _daemon(self) -> None:
        say("One that daemonizes, by two forks: the broker is its parent all the same")
        say(f"  -> {await self._call('Daemon', 'Echo', 's', 'hello')!r}")
        await self._show_tree("Daemon")

    async def _crash(self) -> None:
        say("It crashes, and the bus hears how")
        try:
            await self._call("Daemon", "Raise", "i", int(SIGSEGV))
        except RemoteError as e:
            say(f"  its caller:  {e}")
        pid = await self._get("Daemon", "ExecMainPID")
        exited = await self._signal("ProcessExited", lambda body: body[2] == pid)
        _path, _service, _pid, code, status, _details = exited
        say(f"  the signal:  ProcessExited(pid={pid}, code={code}, status={status})")
        word = exits.exit_word(code, status)
        state = await self._get("Daemon", "ActiveState")
        say(f"  the service: ActiveState={state}, ended by {word}")
        say()

    async def _failure(self) -> None:
        say("One that ends before it takes its name")
        try:
            await self._call("Exits", "Echo", "s", "hello")
        except RemoteError as e:
            say(f"  its caller:  {e}")
        failed = await self._signal("ActivationFailed", lambda _body: True)
        say(f"  the signal:  ActivationFailed: {failed[2]}")
        code, status = (
            await self._get("Exits", "ExecMainCode"),
            await self._get("Exits", "ExecMainStatus"),
        )
        say(f"  the service: ExecMainCode={code}, ExecMainStatus={status}")
        say()

    async def _call(self, service: str, member: str, signature: str, argument: Any) -> Any:
        body = await self._client.bus.call(
            f"{DEMO}.{service}", "/org/activation/Demo", DEMO, member, signature, [argument]
        )
        return body[0] if body else None

    async def _get(self, service: str, name: str) -> Any:
        (path,) = await self._client.call("GetService", "s", f"{DEMO}.{service}")
        return await self._client.get(path, SERVICE, name)

    async def _show_tree(self, service: str) -> None:
        snapshot = await self._client.snapshot()
        since = min(each["StartTimestampMonotonic"] for each in snapshot.processes.values())
        roots = tree.rows(snapshot, service=f"{DEMO}.{service}", exited=True)
        for line in tree.lines(roots, since, legend=True, margin=2):
            say(f"  {line}")
        say(f"  (the broker is PID {os.getppid()})")
        say()

    async def _signal(self, wanted: str, matches: Any) -> list[Any]:
        async with asyncio.timeout(5):
            while True:
                signal = await self._signals.get()
                if signal.member == wanted and matches(signal.body):
                    return signal.body


async def _main() -> None:
    async with await Client.connect(os.environ["DBUS_SESSION_BUS_ADDRESS"]) as client:
        say(f"The bus: {await client.get(ROOT, MANAGER, 'Engine')}")
        say()
        await Tour(client).run()


if __name__ == "__main__":
    asyncio.run(_main())
