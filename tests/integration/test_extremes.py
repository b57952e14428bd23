"""Every method and property, with the largest and oddest values that its types can carry."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.api import paths
from broker.bus import marshalling
from broker.bus.codec import Variant
from broker.bus.objects import OBJECT_MANAGER, PEER, PROPERTIES
from broker.core.printable import LONGEST
from broker.errors import FDO, RemoteError
from tests.aio_client import BUS_NAME, MANAGER, ROOT
from tests.integration.strangers import STRANGERS, connect, open_to_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.bus.connection import Connection
    from broker.bus.interface import InterfaceSpec
    from tests.integration.buses import Place

NAME: Final = "org.activation.Test.One"
TEXTS: Final = [NAME, "", "\x01\x7f\n\u2028\U0010ffff", "x" * 100_000]
VALUES: Final[dict[str, list[Any]]] = {
    "i": [0, 1, -1, 2**31 - 1, 2**31 - 2, -(2**31), -(2**31) + 1],
    "u": [0, 1, 2**31, 2**32 - 1, 2**32 - 2],
    "t": [0, 1, 2**63, 2**63 - 1, 2**64 - 1, 2**64 - 2],
    "s": TEXTS,
    "as": [[], [""], ["A=b", "=", "A"], TEXTS],
    "v": [Variant("t", 2**64 - 1)],
}


def calls(spec: InterfaceSpec) -> Iterator[tuple[str, str, str, list[Any]]]:
    """Each method but Exit with every combination of its arguments' values, and each property."""
    for member, method in spec.methods.items():
        values = [VALUES[each] for each in marshalling.types(method.arguments)]
        for arguments in itertools.product(*values):
            if member != "Exit":
                yield spec.name, member, method.arguments, list(arguments)
    for name in [*spec.properties, *TEXTS]:
        yield PROPERTIES.name, "Get", "ss", [spec.name, name]
        for value in VALUES["v"]:
            yield PROPERTIES.name, "Set", "ssv", [spec.name, name, value]


async def attack(client: Connection, objects: dict[str, list[InterfaceSpec]]) -> int:
    """Call everything; returns how many calls there were."""
    count = 0
    for path, specs in objects.items():
        for interface, member, signature, arguments in itertools.chain(*map(calls, specs)):
            count += 1
            try:
                await client.call(BUS_NAME, path, interface, member, signature, arguments)
            except RemoteError as e:
                # Every error is one that was thought of, and is short.
                if e.name == f"{FDO}Failed" or len(str(e).encode()) > LONGEST:
                    pytest.fail(f"{member}({str(arguments)[:200]}): {e.name}: {str(e)[:200]}")
    return count


@pytest.mark.asyncio
@pytest.mark.parametrize("user", ["self"], indirect=True)
async def test_no_value_is_a_fault(place: Place) -> None:
    place.add(NAME)
    users = [os.geteuid()]
    if os.geteuid() == 0:
        open_to_all(place)
        users.append(STRANGERS[0])
    async with place.serve("--output=capture", "--stop-timeout=1") as bus:
        await bus.echo(NAME)
        snapshot = await bus.client.snapshot()
        objects = {
            ROOT: [paths.MANAGER, OBJECT_MANAGER, PROPERTIES, PEER],
            next(iter(snapshot.services)): [paths.SERVICE],
            next(iter(snapshot.processes)): [paths.PROCESS],
        }
        for uid in users:
            client = await connect(bus, uid)
            assert await attack(client, objects) > 500
            client.close()
            await client.wait_closed()
        assert await bus.client.get(ROOT, MANAGER, "NFaults") == 0
        await bus.client.call("ResetFailed", "s", "")
        assert await bus.echo(NAME) == "hello"
        assert bus.status is None
