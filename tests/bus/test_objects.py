"""Calls to objects, as raw messages: what is answered, in which order, and every mistake."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from broker.bus.codec import SMALL, Message, MessageFlag, Variant
from broker.bus.objects import UNDER_WAY, ObjectServer
from broker.core.printable import LONGEST
from broker.errors import FDO, AccessDenied, RemoteError
from tests.bus import wire
from tests.bus.peer import PATIENCE, Log, connected
from tests.bus.serving import (
    INTROSPECTABLE,
    MACHINE_ID,
    MANAGER,
    MORE,
    PEER,
    PROPERTIES,
    ROOT,
    TEST,
    Served,
    Test,
)

if TYPE_CHECKING:
    from broker.bus.connection import Connection

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("specs")]


# -- the standard errors -------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "interface", "member", "arguments", "error", "names"),
    [
        ("/no", TEST, "Echo", ("us", 1, "a"), "UnknownObject", "/no"),
        ("/no", None, "Echo", (), "UnknownObject", "/no"),
        ("/no", INTROSPECTABLE, "Introspect", (), "UnknownObject", "/no"),
        ("/no", PROPERTIES, "GetAll", ("s", TEST), "UnknownObject", "/no"),
        ("/no", MANAGER, "GetManagedObjects", (), "UnknownObject", "/no"),
        (f"{ROOT}/way/one/x", TEST, "Echo", (), "UnknownObject", f"{ROOT}/way/one/x"),
        ("/or", INTROSPECTABLE, "Introspect", (), "UnknownObject", "/or"),
        (ROOT, "org.example.No", "Echo", (), "UnknownInterface", "org.example.No"),
        (ROOT, MORE, "Extra", (), "UnknownInterface", MORE),
        (f"{ROOT}/way", TEST, "Echo", (), "UnknownInterface", TEST),
        (f"{ROOT}/way", PROPERTIES, "GetAll", ("s", ""), "UnknownInterface", PROPERTIES),
        (f"{ROOT}/way/one", MANAGER, "GetManagedObjects", (), "UnknownInterface", MANAGER),
        ("/", MANAGER, "GetManagedObjects", (), "UnknownInterface", MANAGER),
        (ROOT, TEST, "No", (), "UnknownMethod", "No"),
        (ROOT, None, "No", (), "UnknownMethod", "No"),
        (ROOT, TEST, "Happened", ("s", "a"), "UnknownMethod", "Happened"),
        (ROOT, TEST, "Introspect", (), "UnknownMethod", "Introspect"),
        ("/no", PEER, "Pong", (), "UnknownMethod", "Pong"),
        (ROOT, TEST, "Echo", (), "InvalidArgs", "(us)"),
        (ROOT, TEST, "Echo", ("su", "a", 1), "InvalidArgs", "(su)"),
        (ROOT, TEST, "Echo", ("(us)", (1, "a")), "InvalidArgs", "((us))"),
        (ROOT, TEST, "Nothing", ("s", "a"), "InvalidArgs", "()"),
        (ROOT, PEER, "Ping", ("s", "a"), "InvalidArgs", "Ping"),
        (ROOT, INTROSPECTABLE, "Introspect", ("s", "a"), "InvalidArgs", "Introspect"),
        (ROOT, PROPERTIES, "Get", ("s", TEST), "InvalidArgs", "Get"),
        (ROOT, PROPERTIES, "Get", ("ss", "org.example.No", "Name"), "UnknownInterface", "No"),
        (ROOT, PROPERTIES, "GetAll", ("s", "org.example.No"), "UnknownInterface", "No"),
        (ROOT, PROPERTIES, "GetAll", ("s", MORE), "UnknownInterface", MORE),
        (ROOT, PROPERTIES, "Get", ("ss", TEST, "No"), "UnknownProperty", "No"),
        (ROOT, PROPERTIES, "Get", ("ss", "", "No"), "UnknownProperty", "No"),
        (ROOT, PROPERTIES, "Get", ("ss", PEER, "Name"), "UnknownProperty", "Name"),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", TEST, "No", Variant("s", "a")),
            "UnknownProperty",
            "No",
        ),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", TEST, "Name", Variant("s", "a")),
            "PropertyReadOnly",
            "Name",
        ),
        (
            ROOT,
            PROPERTIES,
            "Set",
            ("ssv", "", "Count", Variant("u", 1)),
            "PropertyReadOnly",
            "Count",
        ),
    ],
)
async def test_each_mistake_has_its_standard_error(
    served: Served,
    path: str,
    interface: str | None,
    member: str,
    arguments: tuple[Any, ...],
    error: str,
    names: str,
) -> None:
    with pytest.raises(RemoteError) as caught:
        await served.call(path, interface, member, *arguments)
    assert caught.value.name == FDO + error
    assert names in str(caught.value)
    assert not served.test.calls


# -- calls ---------------------------------------------------------------------


async def test_a_method_gets_its_arguments_and_its_results_go_back(served: Served) -> None:
    assert await served.call(ROOT, TEST, "Echo", "us", 7, "ä") == [[7, "ä"]]
    assert await served.call(ROOT, TEST, "Nothing") == []


async def test_a_call_without_an_interface_finds_the_method(served: Served) -> None:
    """It is legal; dbus-next looks for the interface "None"."""
    path = f"{ROOT}/way/one"
    assert await served.call(ROOT, None, "Echo", "us", 7, "a") == [[7, "a"]]
    assert await served.call(path, None, "Extra") == ["more"]
    assert await served.call(path, None, "Nothing") == []
    assert await served.call(path, None, "Ping") == []
    assert await served.call(f"{ROOT}/way", None, "Ping") == []
    assert await served.call(ROOT, None, "Get", "ss", TEST, "Name") == [Variant("s", "one")]


async def test_a_call_that_expects_no_reply_gets_none(served: Served) -> None:
    quiet: dict[str, Any] = {"flags": int(MessageFlag.NO_REPLY_EXPECTED)}
    await served.send(ROOT, TEST, "Nothing", **quiet)
    await served.send(ROOT, TEST, "No", **quiet)
    await served.send(ROOT, TEST, "Fail", "s", "outcome", **quiet)
    await served.send(ROOT, PEER, "Ping", **quiet)
    await served.send("/no", TEST, "Nothing", **quiet)
    # The next answer is this one's.
    assert await served.call(ROOT, PEER, "Ping") == []
    assert served.test.calls == ["Nothing", "Fail"]


async def test_signals_and_answers_are_not_for_objects(served: Served) -> None:
    signal: list[wire.Field] = [(wire.INTERFACE, "s", TEST), (wire.PATH, "o", ROOT)]
    await served.peer.write(wire.frame(wire.SIGNAL, [*signal, (wire.MEMBER, "s", "Nothing")]))
    await served.peer.write(wire.answer(1) + wire.error(1, "org.example.Error"))
    assert await served.call(ROOT, PEER, "Ping") == []
    assert served.test.calls == []


async def test_ping_is_answered_on_every_path(served: Served) -> None:
    for path in ("/", ROOT, f"{ROOT}/way", f"{ROOT}/way/one", "/no/such/object"):
        assert await served.call(path, PEER, "Ping") == []
        assert await served.call(path, PEER, "GetMachineId") == [MACHINE_ID]


async def test_the_caller_is_known_also_to_calls_that_overlap(served: Served) -> None:
    served.test.gates = {str(number): asyncio.Event() for number in range(20)}
    serials = {
        await served.send(ROOT, TEST, "Caller", "s", str(number), sender=f":1.{number}"): number
        for number in range(20)
    }
    assert await served.call(ROOT, TEST, "Caller", "s", "") == [":1.7"]
    # asyncio itself holds tasks only weakly.
    gc.collect()
    # All of them are under way now; they end in another order than they began.
    for number in (*range(1, 20, 2), *range(0, 20, 2)):
        served.test.gates[str(number)].set()
        answer = await served.peer.read()
        assert serials[answer.reply_serial] == number
        assert answer.body == [f":1.{number}"]
        assert answer.destination == f":1.{number}"


async def test_a_flood_of_calls_with_large_answers_is_answered_as_the_caller_reads(
    served: Served,
) -> None:
    """One reading brings hundreds of them; all at once would block us, and fill the memory."""
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    answer = 100_000
    served.test.name = "x" * answer
    arguments = ["ss", TEST, "Name"]
    serials = [await served.send(ROOT, PROPERTIES, "Get", *arguments) for _ in range(200)]
    await log.until_length(100)
    await _until_behind(served.connection)
    for _ in range(2 * len(serials)):
        await asyncio.sleep(0)  # now every call that was read has had its turn
    assert 0 < served.connection.write_backlog < 3 * answer
    for serial in serials:
        assert (await served.peer.read()).reply_serial == serial
    assert await served.call(ROOT, PEER, "Ping") == []


async def _until_behind(connection: Connection) -> None:
    while not connection.write_backlog:  # noqa: ASYNC110 - no event: each turn is looked at
        await asyncio.sleep(0)


async def test_callers_take_turns(served: Served) -> None:
    """A client with many calls waits for the others, not they for it."""
    get = (ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    greedy = [await served.send(*get, sender=":1.66") for _ in range(200)]
    modest = [await served.send(*get, sender=":1.7") for _ in range(3)]
    order = [(await served.peer.read()).reply_serial for _ in range(203)]
    # All of them came in one reading; what was begun before is answered first.
    assert [each for each in order if each in greedy] == greedy
    assert [each for each in order if each in modest] == modest
    assert order.index(modest[-1]) < 10


async def test_what_one_caller_may_have_under_way_is_bounded(served: Served) -> None:
    served.test.gates["a"] = asyncio.Event()
    most = UNDER_WAY // SMALL
    serials = [
        await served.send(ROOT, TEST, "Caller", "s", "a", sender=":1.66") for _ in range(most + 50)
    ]
    refused = [await served.peer.read() for _ in range(50)]
    assert [each.reply_serial for each in refused] == serials[most:]
    assert {each.error_name for each in refused} == {FDO + "LimitsExceeded"}
    assert ":1.66" in refused[0].body[0]
    # Others are not concerned, and neither is it once it has its answers.
    assert await served.call(ROOT, TEST, "Caller", "s", "") == [":1.7"]
    served.test.gates.pop("a").set()
    answers = {(await served.peer.read()).reply_serial for _ in range(most)}
    assert answers == set(serials[:most])
    await served.send(ROOT, TEST, "Caller", "s", "", sender=":1.66")
    assert (await served.peer.read()).body == [":1.66"]


async def test_what_would_be_dropped_is_not_decoded(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Signals, and calls beyond their sender's share that want no answer: a flood of either."""
    served.connection.sift = served.server.sift
    served.test.gates["a"] = asyncio.Event()
    for _ in range(UNDER_WAY // SMALL):
        await served.send(ROOT, TEST, "Caller", "s", "a", sender=":1.66")
    fields: list[wire.Field] = [(wire.PATH, "o", ROOT), (wire.MEMBER, "s", "Echo")]
    fields += [(wire.SENDER, "s", ":1.66"), (wire.SIGNATURE, "g", "s")]
    no_reply = 1
    # What is decoded of these is complained of.
    await served.peer.write(
        wire.frame(wire.CALL, fields, b"", flags=no_reply) * 100
        + wire.frame(wire.SIGNAL, fields, b"") * 100
    )
    assert await served.call(ROOT, PEER, "Ping") == []
    assert caplog.records == []
    fields[2] = (wire.SENDER, "s", ":1.7")
    await served.peer.write(wire.frame(wire.CALL, fields, b"", flags=no_reply))
    assert await served.call(ROOT, PEER, "Ping") == []
    assert len(caplog.records) == 1
    served.test.gates["a"].set()


async def test_it_moves_to_another_connection(served: Served) -> None:
    """Answers to calls on the old one are lost with it; signals wait for the new one."""
    server = served.server
    await served.call(ROOT, PEER, "Ping")
    behind = []
    async with connected() as (connection, peer):
        for server.silent in (True, False):
            behind.append(server.behind)
        server.serve(connection)
        connection.on_message = server.handle
        served.peer, old = peer, served.peer
        assert await served.call(ROOT, TEST, "Caller", "s", "") == [":1.7"]
        server.emit_removed(ROOT, [TEST])
        assert (await peer.read()).member == "InterfacesRemoved"
        served.peer = old
    assert behind == [True, False]


@pytest.mark.parametrize(
    ("count", "error"), [(100_000, "InvalidArgs"), (300_000, "LimitsExceeded")]
)
async def test_megabytes_that_nobody_wants_are_not_read(
    served: Served, count: int, error: str
) -> None:
    """Into objects, that is: a second for a million integers, and everybody waits."""
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    signature = "ai" if error == "InvalidArgs" else "us"
    content = wire.body("ai", [[7] * count])
    fields: list[wire.Field] = [(wire.PATH, "o", ROOT), (wire.MEMBER, "s", "Echo")]
    fields += [(wire.SENDER, "s", ":1.7"), (wire.SIGNATURE, "g", signature)]
    await served.peer.write(wire.frame(wire.CALL, fields, content))
    answer = await served.peer.read()
    assert answer.error_name == FDO + error
    assert "body" not in vars(log[0])
    assert await served.call(ROOT, PEER, "Ping") == []


async def test_a_large_call_is_read_when_its_turn_has_come(served: Served) -> None:
    text = "x" * 100_000
    assert await served.call(ROOT, TEST, "Echo", "us", 7, text) == [[7, text]]
    # dbus-next's reader is asked then; what is wrong is told the caller.
    fields: list[wire.Field] = [(wire.PATH, "o", ROOT), (wire.MEMBER, "s", "Echo")]
    fields += [(wire.SENDER, "s", ":1.7"), (wire.SIGNATURE, "g", "us")]
    await served.peer.write(wire.frame(wire.CALL, fields, b"\xff" * 2000))
    answer = await served.peer.read()
    assert answer.error_name == FDO + "InvalidArgs"
    assert answer.body[0].startswith("malformed message: ")


async def test_calls_that_wait_for_a_slow_caller_end_with_the_connection(served: Served) -> None:
    served.test.name = "x" * 100_000
    for _ in range(20):
        await served.send(ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    # Some of the first answer has come, and the socket holds no more of it.
    await asyncio.get_running_loop().sock_recv(served.peer.sock, 1)
    await _until_behind(served.connection)
    served.peer.close()
    async with asyncio.timeout(PATIENCE):
        await served.connection.wait_closed()
        await served.server.finish()


async def test_signals_go_out_before_the_answer_that_implies_them(served: Served) -> None:
    async def say() -> None:
        served.server.emit(ROOT, Test.spec, "Happened", [str(served.test.calls)])

    served.server.before_reply = say
    for how in ("nothing", "outcome"):
        serial = await served.send(ROOT, TEST, "Fail", "s", how)
        assert (await served.peer.read()).member == "Happened"
        assert (await served.peer.read()).reply_serial == serial


async def test_finishing_answers_what_has_come(served: Served) -> None:
    log = Log()
    handle = served.connection.on_message

    def on_message(message: Message) -> None:
        handle(message)
        log.append(message)

    served.connection.on_message = on_message
    served.test.gates["a"] = asyncio.Event()
    serial = await served.send(ROOT, TEST, "Caller", "s", "a")
    await log.until_length(1)
    finishing = asyncio.create_task(served.server.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    served.test.gates["a"].set()
    await finishing
    assert (await served.peer.read()).reply_serial == serial


async def test_an_end_before_a_call_has_begun_is_quiet() -> None:
    """A coroutine that was made and never run would warn, and warnings are errors here."""
    async with connected() as (connection, _peer):
        server = ObjectServer(ROOT, MACHINE_ID)
        server.serve(connection)
        server.add(ROOT, Test("one"))
        before = asyncio.all_tasks()
        server.handle(Message(path=ROOT, interface=TEST, member="Nothing", serial=1))
        (task,) = asyncio.all_tasks() - before
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# -- errors of methods ---------------------------------------------------------


async def test_an_expected_failure_is_told_with_its_name_and_text(served: Served) -> None:
    for how, name, text in (
        ("outcome", "org.activation.Broker1.Error.StartLimitHit", "failed too often"),
        ("denied", FDO + "AccessDenied", ""),
    ):
        with pytest.raises(RemoteError) as caught:
            await served.call(ROOT, TEST, "Fail", "s", how)
        assert caught.value.name == name
        assert str(caught.value) == text


@pytest_asyncio.fixture
async def faults(served: Served) -> list[str]:
    """What the log and the loop's handler say of faults: "counted", "ended"."""
    found: list[str] = []
    served.server.on_fault = lambda: found.append("counted")
    asyncio.get_running_loop().set_exception_handler(lambda *_: found.append("ended"))
    return found


async def _fail(served: Served, path: str, interface: str, member: str, *arguments: Any) -> None:
    """Call what has a fault: its caller hears little, and life goes on."""
    with pytest.raises(RemoteError) as caught:
        await served.call(path, interface, member, *arguments)
    assert caught.value.name == FDO + "Failed"
    assert str(caught.value) == f"{member} failed in the broker"
    assert await served.call(ROOT, PEER, "Ping") == []


async def test_a_fault_costs_its_caller_and_is_logged(
    served: Served, faults: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    await _fail(served, ROOT, TEST, "Fail", "s", "fault")
    assert faults == ["counted"]
    (record,) = caplog.records
    assert record.getMessage() == "fault: Fail, called by :1.7"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "/secret/path"


async def test_results_of_the_wrong_type_are_a_fault_and_not_a_silence(
    served: Served, faults: list[str]
) -> None:
    await _fail(served, ROOT, TEST, "Fail", "s", "body")
    assert faults == ["counted"]


async def test_a_property_that_cannot_be_read_is_a_fault(served: Served, faults: list[str]) -> None:
    served.test.broken = True
    await _fail(served, ROOT, PROPERTIES, "Get", "ss", TEST, "Name")
    await _fail(served, ROOT, PROPERTIES, "GetAll", "s", "")
    assert faults == ["counted"] * 2


async def test_what_breaks_the_session_reaches_the_loops_handler(
    served: Served, faults: list[str]
) -> None:
    await _fail(served, ROOT, TEST, "Fail", "s", "broken")
    assert faults == ["ended"]


# -- what is too large, and what is not everybody's ----------------------------


async def test_an_answer_that_the_bus_does_not_take_is_an_error(served: Served) -> None:
    served.connection.largest = 300
    with pytest.raises(RemoteError) as caught:
        await served.call(ROOT, TEST, "Echo", "us", 7, "x" * 300)
    assert caught.value.name == FDO + "LimitsExceeded"
    assert await served.call(ROOT, TEST, "Echo", "us", 7, "x") == [[7, "x"]]


async def test_a_signal_that_the_bus_does_not_take_is_dropped_and_counted(served: Served) -> None:
    dropped: list[None] = []
    served.server.on_oversize = lambda: dropped.append(None)
    served.connection.largest = 300
    served.server.emit(ROOT, served.test.spec, "Happened", ["x" * 300])
    served.server.emit(ROOT, served.test.spec, "Happened", ["y"])
    assert (await served.peer.read()).body == ["y"]
    assert len(dropped) == 1


async def test_an_error_quotes_no_megabytes(served: Served) -> None:
    path = "/" + "x" * 1_000_000
    with pytest.raises(RemoteError) as caught:
        await served.call(path, TEST, "Nothing")
    assert caught.value.name == FDO + "UnknownObject"
    assert len(str(caught.value).encode()) == LONGEST
    assert str(caught.value).endswith("x…")


async def test_what_is_private_is_denied_or_empty(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(caller: str) -> None:
        asked.append(caller)
        raise AccessDenied("not you")

    asked: list[str] = []
    served.server.require_privilege = refuse
    monkeypatch.setattr(Test, "private", frozenset({"Name"}))
    path = f"{ROOT}/way/one"
    with pytest.raises(RemoteError) as caught:
        await served.call(path, PROPERTIES, "Get", "ss", TEST, "Name")
    assert (caught.value.name, str(caught.value)) == (FDO + "AccessDenied", "not you")
    (values,) = await served.call(path, PROPERTIES, "GetAll", "s", TEST)
    assert values["Name"].value == ""
    (objects,) = await served.call(ROOT, MANAGER, "GetManagedObjects")
    assert objects[path][TEST]["Name"].value == ""
    assert asked == [":1.7"] * 3
    # What is public costs no question.
    assert (await served.call(path, PROPERTIES, "Get", "ss", TEST, "Count"))[0].value == 0
    assert asked == [":1.7"] * 3
    for discreet, name in ((False, "one"), (True, "")):
        served.server.discreet = discreet
        served.server.emit_added(path)
        assert (await served.peer.read()).body[1][TEST]["Name"].value == name


# -- objects that go -----------------------------------------------------------


async def test_an_object_that_goes_while_its_call_waits_is_unknown(served: Served) -> None:
    """The call was read, its task has not begun, and a process ends: no fault of ours."""
    path = f"{ROOT}/way/one"
    for which, member, arguments in (
        (PROPERTIES, "Get", ["ss", TEST, "Name"]),
        (PROPERTIES, "GetAll", ["s", ""]),
        (INTROSPECTABLE, "Introspect", []),
    ):
        handle = served.server.handle

        def on_message(message: Message) -> None:
            handle(message)  # noqa: B023 - called within this round
            served.server.remove(path)

        served.connection.on_message = on_message
        with pytest.raises(RemoteError) as caught:
            await served.call(path, which, member, *arguments)
        assert caught.value.name == FDO + "UnknownObject"
        served.server.add(path, Test("one"))
