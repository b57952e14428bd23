"""The owners of names, reported in the order of their changes on a real bus."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from broker.bus import address
from broker.bus.codec import Message, MessageType, Splitter, decode
from broker.bus.connection import Connection
from broker.bus.driver import DRIVER
from broker.bus.names import NameWatch
from broker.errors import Disconnected
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.asyncio

NAME = "org.example.Name"
OTHER = "org.example.Other"
PID = os.getpid()

MAX_RULES = 3
ALLOW_REPLACEMENT = 1
REPLACE_EXISTING = 2


def noticed(log: Log) -> bool:
    """Whether the watch has been told of a change, and asks for its PID."""
    return bool(log) and log[-1].member == "NameOwnerChanged"


class Owner:
    """A client that blocks: while it acts, nobody else in this process does.

    So what it did is on the watcher's socket, and unread, before the test goes on.
    """

    def __init__(self, where: str) -> None:
        self._sock = address.connect(where)
        self._sock.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        line = b""
        while line.count(b"\r\n") < 2:
            line += self._sock.recv(1)
        self._splitter = Splitter()
        self._serial = 0
        (self.unique_name,) = self.call("Hello")

    def call(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call the bus, and return when it has answered."""
        self._serial += 1
        self._sock.sendall(
            wire.call(
                "/org/freedesktop/DBus",
                DRIVER,
                member,
                signature,
                list(arguments),
                serial=self._serial,
                destination=DRIVER,
            )
        )
        while True:
            for frame in self._splitter.feed(self._sock.recv(1 << 16)):
                message = decode(frame)
                assert message is not None
                if message.reply_serial == self._serial:
                    assert message.message_type is MessageType.METHOD_RETURN, message.body
                    return list(message.body)

    def take(self, name: str = NAME, flags: int = 0) -> None:
        """Own a name, or queue for it."""
        self.call("RequestName", "su", name, flags)

    def give(self, name: str = NAME) -> None:
        """Own it no more."""
        self.call("ReleaseName", "s", name)

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()


class Watcher:
    """Logs what a watch tells, and everything that arrives."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.told = Log()
        self.heard: list[float] = []
        self.arrived = Log()
        self.watch = NameWatch(self, MAX_RULES)

    async def begin(self) -> None:
        """Watch on the connection, and log what it decodes."""
        await self.watch.resume(self.connection)
        handle = self.connection.on_message

        def on_message(message: Message) -> None:
            self.arrived.append(message)
            handle(message)

        self.connection.on_message = on_message

    def name_acquired(self, name: str, owner: str, pid: int | None, heard: float) -> None:
        self.told.append((name, owner, pid))
        self.heard.append(heard)

    def name_lost(self, name: str) -> None:
        self.told.append((name, ""))

    async def settle(self) -> None:
        """Return when every change is reported that the bus knew of at the call.

        Two questions: by the second answer those are answered that the watch
        asked when it saw what came before the first.
        """
        await self.connection.sync()
        await self.connection.sync()


@pytest_asyncio.fixture
async def watcher(bus: str) -> AsyncIterator[Watcher]:
    connection = await Connection.to_bus(address.connect(bus))
    watcher = Watcher(connection)
    await watcher.begin()
    yield watcher
    connection.close()
    await connection.wait_closed()


@pytest.fixture
def owner(bus: str) -> Iterator[Callable[[], Owner]]:
    made: list[Owner] = []

    def make() -> Owner:
        made.append(Owner(bus))
        return made[-1]

    yield make
    for each in made:
        each.close()


PROGRAM = """
import asyncio, sys
from broker.bus import address
from broker.bus.connection import Connection

async def main():
    connection = await Connection.to_bus(address.connect(sys.argv[1]))
    await connection.call_bus("RequestName", "su", [sys.argv[2], 0])
    await connection.wait_closed()

asyncio.run(main())
"""


def _start(bus: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, bus, NAME])


async def test_a_name_is_told_with_the_process_that_took_it_and_its_end(
    bus: str, watcher: Watcher
) -> None:
    await watcher.watch.watch([NAME])
    with _start(bus) as process:
        await watcher.told.until_length(1)
        process.kill()
    name, unique_name, pid = watcher.told[0]
    assert (name, pid) == (NAME, process.pid)
    assert unique_name.startswith(":")
    await watcher.told.until_length(2)
    assert watcher.told[1:] == [(NAME, "")]


async def test_names_that_are_owned_already_are_told(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    one = owner()
    one.take(NAME)
    one.take(OTHER)
    await watcher.watch.watch([NAME, "org.example.Free", "com.example.Free"])
    await watcher.settle()
    assert watcher.told == [(NAME, one.unique_name, PID)]


async def test_changes_come_in_their_order_however_quick_they_are(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """Each of them needs a PID, which takes a question; nothing may overtake it."""
    await watcher.watch.watch([NAME])
    one = owner()
    for _ in range(4):
        one.take()
        one.give()
    await watcher.told.until_length(8)
    await watcher.settle()
    assert watcher.told == [(NAME, one.unique_name, PID), (NAME, "")] * 4


async def test_it_tells_when_the_bus_spoke_of_an_owner_and_not_when_it_had_its_pid(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME])
    clock = asyncio.get_running_loop().time
    before = clock()
    owner().take()
    await watcher.arrived.until(noticed)
    noted = clock()
    await watcher.told.until_length(1)
    (heard,) = watcher.heard
    assert before < heard < noted


async def test_an_owner_that_has_already_left_has_no_pid(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME])
    one, other = owner(), owner()
    one.take()
    one.close()
    # The end of a socket is not answered: that the bus has seen it, another's name shows.
    other.take()
    while other.call("GetNameOwner", "s", NAME) != [other.unique_name]:
        pass
    await watcher.settle()
    taken_over = (NAME, other.unique_name, PID)
    assert watcher.told in (
        [(NAME, one.unique_name, None), taken_over],
        [(NAME, one.unique_name, None), (NAME, ""), taken_over],
    )


async def test_a_name_that_passes_on_is_told_with_each_new_owner(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME])
    one, other = owner(), owner()
    one.take(flags=ALLOW_REPLACEMENT)
    other.take(flags=REPLACE_EXISTING)
    other.give()  # back to the first, which waits for it
    one.give()
    await watcher.settle()
    assert watcher.told == [
        (NAME, one.unique_name, PID),
        (NAME, other.unique_name, PID),
        (NAME, one.unique_name, PID),
        (NAME, ""),
    ]


async def test_only_names_of_its_set_are_told(watcher: Watcher, owner: Callable[[], Owner]) -> None:
    await watcher.watch.watch([NAME])
    one = owner()
    one.take(OTHER)
    one.take(NAME + ".Child")
    one.take(NAME)
    one.give(OTHER)
    await watcher.settle()
    assert watcher.told == [(NAME, one.unique_name, PID)]


async def test_the_set_can_be_changed(watcher: Watcher, owner: Callable[[], Owner]) -> None:
    one = owner()
    await watcher.watch.watch([NAME])
    one.take(NAME)
    one.take(OTHER)
    await watcher.settle()
    await watcher.watch.watch([OTHER, "com.example.Free"])
    one.give(NAME)
    one.take(NAME)
    await watcher.settle()
    # The one that stays is not told again, the one that comes back is.
    await watcher.watch.watch([OTHER, NAME])
    await watcher.settle()
    assert watcher.told == [
        (NAME, one.unique_name, PID),
        (OTHER, one.unique_name, PID),
        (NAME, one.unique_name, PID),
    ]


async def test_what_is_under_way_for_a_name_that_leaves_the_set_is_not_told(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME])
    one = owner()
    one.take()
    # The watch asks for the PID now, and its answer comes after the set has changed.
    await watcher.arrived.until(noticed)
    await watcher.watch.watch([OTHER])
    await watcher.settle()
    assert watcher.told == []


async def test_a_name_that_is_taken_as_the_watch_begins_is_told_once(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([OTHER])
    one = owner()
    one.take()  # both the signal and the list of names say so
    await watcher.watch.watch([OTHER, NAME])
    await watcher.settle()
    assert watcher.told == [(NAME, one.unique_name, PID)]


async def test_a_name_that_is_lost_as_the_watch_begins_is_not_told(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([OTHER])
    one = owner()
    one.take()
    await watcher.settle()
    beginning = asyncio.create_task(watcher.watch.watch([OTHER, NAME]))
    # As soon as the list of names is on its way, the name goes.
    await asyncio.sleep(0)
    one.give()
    await beginning
    await watcher.settle()
    assert watcher.told == []


async def test_names_that_are_watched_no_more_wake_nobody(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME, "com.example.Name"])
    await watcher.watch.watch([NAME])
    one = owner()
    one.take("com.example.Name")
    one.take(NAME)
    await watcher.told.until_length(1)
    changed = [each for each in watcher.arrived if each.member == "NameOwnerChanged"]
    assert [each.body[0] for each in changed] == [NAME]
    await watcher.watch.watch([NAME, "com.example.Name"])
    await watcher.settle()
    assert watcher.told[1:] == [("com.example.Name", one.unique_name, PID)]


async def test_a_name_that_was_forgotten_is_asked_for_again(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME, OTHER])
    watcher.watch.forget(NAME)
    one = owner()
    one.take(NAME)
    await watcher.settle()
    assert watcher.told == []
    await watcher.watch.watch([NAME, OTHER])
    await watcher.settle()
    assert watcher.told == [(NAME, one.unique_name, PID)]


async def test_clients_that_come_and_go_wake_nobody(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME, "com.example.Name"])
    watcher.arrived.clear()
    for _ in range(10):
        client = owner()
        client.close()
    one = owner()
    one.take()
    await watcher.settle()
    assert [message.body for message in watcher.arrived] == [[NAME, "", one.unique_name]]


async def test_asking_tells_the_owner_or_that_there_is_none(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    one = owner()
    one.take()
    answers = Log()
    watcher.watch.ask(NAME, answers.append)
    watcher.watch.ask(OTHER, answers.append)
    await answers.until_length(2)
    assert answers == [one.unique_name, ""]


async def test_asking_for_processes_tells_all_that_own_a_name(
    bus: str, watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    answers = Log()
    watcher.watch.ask_processes(answers.append)
    await answers.until_length(1)
    owner().take(OTHER)
    owner()  # a connection without a name
    await watcher.watch.watch([NAME])
    with _start(bus) as process:
        await watcher.told.until_length(1)
        watcher.watch.ask_processes(answers.append)
        await answers.until_length(2)
        process.kill()
    await watcher.told.until_length(2)
    watcher.watch.ask_processes(answers.append)  # left to the next connection
    watcher.connection.close()
    await watcher.connection.wait_closed()
    watcher.connection = await Connection.to_bus(address.connect(bus))
    await watcher.begin()
    await answers.until_length(3)
    assert answers == [frozenset(), {PID, process.pid}, {PID}]
    watcher.connection.close()


async def test_an_answer_comes_after_all_that_the_bus_said_before_it(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """Also after changes whose PID is not known yet when the answer comes."""
    await watcher.watch.watch([NAME])
    one = owner()
    one.take()
    one.give()
    # The signals are on the socket, and are read after this has asked.
    watcher.watch.ask(NAME, lambda name: watcher.told.append(("answer", name)))
    await watcher.told.until_length(3)
    assert watcher.told == [(NAME, one.unique_name, PID), (NAME, ""), ("answer", "")]

    watcher.told.clear()
    one.take()
    watcher.watch.ask(NAME, lambda name: watcher.told.append(("answer", name)))
    await watcher.told.until_length(2)
    assert watcher.told == [(NAME, one.unique_name, PID), ("answer", one.unique_name)]


async def test_the_end_of_the_connection_is_no_answer(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """That nobody owns a name any more would start its service again."""
    await watcher.watch.watch([NAME])
    one = owner()
    one.take()
    await watcher.arrived.until(noticed)
    for name in (NAME, OTHER):
        watcher.watch.ask(name, lambda owner: watcher.told.append(("answer", owner)))
    watcher.connection.close()
    await watcher.connection.wait_closed()
    watcher.watch.ask(OTHER, lambda owner: watcher.told.append(("answer", owner)))
    assert watcher.told == []


async def test_a_new_connection_tells_what_the_old_one_did_not(
    bus: str, watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """Names that were taken, passed on and lost meanwhile; a PID and two answers under way."""
    third, fourth = "org.example.Third", "org.example.Fourth"
    await watcher.watch.watch([NAME, OTHER, third])
    one, other = owner(), owner()
    one.take(OTHER)
    one.take(third)
    await watcher.settle()
    watcher.told.clear()
    one.take(NAME)
    await watcher.arrived.until(noticed)  # and its PID is asked for
    for name in (NAME, OTHER):
        watcher.watch.ask(name, lambda owner: watcher.told.append(("answer", owner)))
    watcher.connection.close()
    await watcher.connection.wait_closed()
    one.give(OTHER)
    one.give(third)
    other.take(third)
    synced = watcher.watch.synced()
    await watcher.watch.watch([NAME, OTHER, third, fourth])  # left to the next one
    other.take(fourth)
    assert watcher.told == []

    watcher.connection = await Connection.to_bus(address.connect(bus))
    await watcher.begin()
    async with asyncio.timeout(PATIENCE):
        await synced
    assert sorted(watcher.told) == sorted(
        [
            (NAME, one.unique_name, PID),
            ("answer", one.unique_name),
            (OTHER, ""),
            ("answer", ""),
            (third, other.unique_name, PID),
            (fourth, other.unique_name, PID),
        ]
    )
    # Each answer comes behind what it rests on.
    assert watcher.told.index((NAME, one.unique_name, PID)) < watcher.told.index(
        ("answer", one.unique_name)
    )
    assert watcher.told.index((OTHER, "")) < watcher.told.index(("answer", ""))
    one.give(NAME)
    await watcher.settle()
    assert watcher.told[6:] == [(NAME, "")]
    watcher.connection.close()


async def test_a_new_connection_may_be_lost_as_well(
    bus: str, watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    await watcher.watch.watch([NAME])
    watcher.connection.close()
    watcher.watch.ask(NAME, lambda owner: watcher.told.append(("answer", owner)))
    for _ in range(3):
        watcher.connection = await Connection.to_bus(address.connect(bus))
        beginning = asyncio.ensure_future(watcher.begin())
        await asyncio.sleep(0)
        watcher.connection.close()
        with pytest.raises(Disconnected):
            await beginning
    one = owner()
    one.take()
    watcher.connection = await Connection.to_bus(address.connect(bus))
    await watcher.begin()
    await watcher.told.until_length(2)
    assert watcher.told == [(NAME, one.unique_name, PID), ("answer", one.unique_name)]
    watcher.connection.close()


async def test_a_name_that_is_flipped_is_looked_at_once_a_second(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """Other names are reported at each change; a question reports this one, too."""
    await watcher.watch.watch([NAME, OTHER])
    one, other = owner(), owner()
    for _ in range(2000):
        one.take(NAME)
        one.give(NAME)
    await watcher.settle()
    assert 0 < len(watcher.told) < 2000
    watcher.told.clear()
    other.take(NAME)
    other.take(OTHER)
    await watcher.told.until_length(1)
    assert watcher.told == [(OTHER, other.unique_name, PID)]
    watcher.watch.ask(NAME, lambda owner: watcher.told.append(("answer", owner)))
    await watcher.told.until_length(3)
    name = other.unique_name
    assert watcher.told[1:] == [(NAME, name, PID), ("answer", name)]
    one.take(NAME)  # is next in line
    other.give(NAME)
    await watcher.told.until_length(4)
    assert watcher.told[3:] == [(NAME, one.unique_name, PID)]
    one.give(NAME)
    await watcher.told.until_length(5)
    assert watcher.told[4:] == [(NAME, "")]


async def test_many_names_have_one_rule_for_all_that_begin_alike(
    watcher: Watcher, owner: Callable[[], Owner]
) -> None:
    """The bus may compare each change with each rule; what does not concern us is dropped here."""
    many = [NAME, *(f"org.example.N{i}" for i in range(MAX_RULES))]
    await watcher.watch.watch(many)
    one = owner()
    one.take(OTHER)
    one.take(NAME)
    await watcher.settle()
    await watcher.watch.watch([NAME, OTHER])
    await watcher.settle()
    one.give(NAME)
    await watcher.settle()
    assert watcher.told == [
        (NAME, one.unique_name, PID),
        (OTHER, one.unique_name, PID),
        (NAME, ""),
    ]
    assert {each.body[0] for each in watcher.arrived if each.member == "NameOwnerChanged"} == {NAME}
