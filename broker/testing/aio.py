"""The bus for asynchronous tests; its fixtures exist if pytest-asyncio is installed."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from broker.testing.bus import Bus
    from broker.testing.service import Service

# Of event loops, in pytest-asyncio's words.
_SCOPES: Final = ("function", "class", "module", "package", "session")


class AsyncBus:
    """The waiting methods of a bus, without blocking the event loop.

    So a test can serve objects itself for its services to call. All other methods, which
    the broker answers by itself and at once, are in ``bus``.

    Attributes:
        bus: the same bus, for synchronous code.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def start(self, name: str, timeout: float | None = None) -> Service:  # noqa: ASYNC109
        """Activate a service, and wait until it has its name; raises as ``Bus.start``."""
        _loop()
        serial = self.bus.remote.send("StartService", "s", name)
        if not await self._answered(serial, timeout):
            raise self.bus.late(name, timeout)
        return self.bus.started(name, serial, None)

    async def stop(self, name: str) -> None:
        """End all processes of a service; raises as ``Service.stop``."""
        _loop()
        serial = self.bus.remote.send("StopService", "s", name)
        await self._answered(serial, None)
        self.bus.remote.reply(serial)

    async def wait(self, name: str, timeout: float | None = None) -> int | None:  # noqa: ASYNC109
        """Wait until a service has ended; returns and raises as ``Service.wait``."""
        service = self.bus.service(name)
        about = service.properties()
        while not service.over(about):
            if not await self._until(self._news, timeout):
                raise TimeoutError(f"{name} is still {about['ActiveState']} ({timeout:g} s)")
            about = service.properties()
        return service.returncode

    def _news(self) -> bool:
        before = len(self.bus.news)
        self.bus.drain()
        return len(self.bus.news) > before

    async def _answered(self, serial: int, timeout: float | None) -> bool:  # noqa: ASYNC109
        connection = self.bus.remote.bus

        def arrived() -> bool:
            connection.wait(0)
            return connection.answered(serial)

        return await self._until(arrived, timeout)

    async def _until(self, arrived: Callable[[], bool], timeout: float | None) -> bool:  # noqa: ASYNC109
        """Wait until ``arrived`` is true; checked after each message of the broker's."""
        loop = _loop()
        readable = asyncio.Event()
        loop.add_reader(self.bus.remote.bus.fileno(), readable.set)
        try:
            async with asyncio.timeout(timeout):
                while not arrived():
                    readable.clear()
                    await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self.bus.remote.bus.fileno())
        return True


def _loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "dbus_activator_async is for tests in asyncio's event loop, and this is none (trio's "
            "perhaps): call dbus_activator in a thread, as with trio.to_thread.run_sync"
        ) from None


@pytest.fixture
def dbus_activator_async(dbus_activator: Bus) -> AsyncBus:
    """The test's bus, for ``await``."""
    return AsyncBus(dbus_activator)


def _connection_in(loop_scope: Any) -> Any:
    """The fixture of a connection in an event loop of one scope."""

    @pytest_asyncio.fixture(loop_scope=loop_scope, name=f"_dbus_activator_connection_{loop_scope}")
    async def connection(dbus_activator: Bus) -> AsyncIterator[Any]:
        from broker.bus import stock  # noqa: PLC0415 - only for users of this fixture

        async with stock.connected(dbus_activator.address) as bus:
            yield bus

    return connection


# pytest finds fixtures among the names of a module.
globals().update({f"_connection_{each}": _connection_in(each) for each in _SCOPES})


@pytest.fixture
def dbus_activator_connection(request: pytest.FixtureRequest) -> Any:
    """A connected ``dbus_next.aio.MessageBus`` on the test's bus, in the test's event loop.

    pytest-asyncio runs a fixture in the loop of one scope, regardless of the test's own.
    """
    marker = request.node.get_closest_marker("asyncio")
    if marker is None and inspect.iscoroutinefunction(getattr(request.node, "function", None)):
        raise pytest.UsageError(
            "dbus_activator_connection is for tests that pytest-asyncio runs: mark this one with "
            "pytest.mark.asyncio"
        )
    said = marker.kwargs if marker else {}
    scope = said.get("loop_scope") or said.get("scope")
    scope = scope or request.config.getini("asyncio_default_test_loop_scope")
    return request.getfixturevalue(f"_dbus_activator_connection_{scope}")
