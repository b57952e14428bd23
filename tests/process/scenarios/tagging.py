"""RLIMIT_LOCKS as a mark: its values, its ranges, and who may read it."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import TYPE_CHECKING, Any, Final

from broker.core.attribution import Attribution, Evidence, Marks
from broker.process import tag
from broker.process.spawn import Program, SpawnRefusedError, spawn
from broker.process.tag import RLIMIT_LOCKS, Tagger
from tests.process.broker import Broker
from tests.process.harness import NOBODY, become, in_child, pipe

if TYPE_CHECKING:
    from collections.abc import Sequence

CAP_SYS_RESOURCE: Final = 24
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_capability(number: int) -> None:
    """Do without a capability from now on, as root in a container does."""
    header = _CapHeader(0x20080522, 0)
    data = (_CapData * 2)()
    assert _libc.capget(ctypes.byref(header), data) == 0
    for each in (data[number // 32],):
        each.effective &= ~(1 << number % 32)
        each.permitted &= ~(1 << number % 32)
        each.inheritable &= ~(1 << number % 32)
    assert _libc.capset(ctypes.byref(header), data) == 0


def values(child: str, count: int) -> Any:
    """The values that are handed out, and the limits of ourselves and of a child at each."""
    tagger = Tagger()
    found: list[Any] = []
    for _ in range(count):
        value = tagger.advance()
        pid = spawn(Program(argv=[child, "raised", "0", "now"], name="", environ={}))
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        theirs = resource.prlimit(pid, RLIMIT_LOCKS)
        read = tag.read(pid)
        os.waitpid(pid, 0)
        found.append([value, list(resource.getrlimit(RLIMIT_LOCKS)), list(theirs), read])
    return {"stride": tagger.stride, "found": found}


def raising() -> Any:
    """Whether what is tagged can take its tag away."""
    drop_capability_of_root()
    value = Tagger().advance()
    assert value is not None
    return in_child(_raise_limit, value)


def drop_capability_of_root() -> None:
    """With it the hard limit can be raised; the tag is a mark, not a wall."""
    if os.geteuid() == 0:
        drop_capability(CAP_SYS_RESOURCE)


def _raise_limit(value: int) -> list[str]:
    found = []
    for limits in (
        (value + 1, value + 1),
        (value, value + 1),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY),
        (value + 1, value),
    ):
        try:
            resource.setrlimit(RLIMIT_LOCKS, limits)
        except (OSError, ValueError):
            found.append("refused")
        else:
            found.append("taken")
    return found


def nesting(depth: int) -> Any:
    """Taggers within taggers; what each makes of the values of those below it."""
    # Two activations on each level, and the nested broker is the second.
    tagger = Tagger()
    marks = Marks(tagger.stride)
    own = []
    below: list[Any] = []
    for activation in (1, 2, 3):
        value = tagger.advance()
        own.append(value)
        if value is not None:
            marks.add(activation, tag=value, cgroup=None)
        if activation == 2 and depth:
            below = in_child(nesting, depth - 1)
    found = []
    for level in below:
        tags = [value for value in level["own"] if value is not None]
        found += [marks.attribute(Evidence(value, "", 0, 0)) for value in tags]
    return [{"stride": tagger.stride, "own": own, "below": found}, *below]


def exhaustion(hard: int) -> Any:
    """All values below a hard limit."""
    resource.setrlimit(RLIMIT_LOCKS, (hard, hard))
    tagger = Tagger()
    found: list[int] = []
    while (value := tagger.advance()) is not None:
        found.append(value)
    again = [tagger.advance() for _ in range(3)]
    return {
        "stride": tagger.stride,
        "count": len(found),
        "first": found[:1],
        "falling": found == sorted(set(found), reverse=True),
        "last": found[-1:],
        "limit": resource.getrlimit(RLIMIT_LOCKS)[1],
        "again": again,
    }


async def exhausted_services(child: str) -> Any:
    """Orphans of services that are started when there are no values left."""
    hard = 5 * 4096
    resource.setrlimit(RLIMIT_LOCKS, (hard, hard))
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("broker.process.activations").addHandler(handler)
    async with Broker() as broker:
        with pipe() as (reader, release):
            missing = Program(argv=["/nonexistent"], name="", environ={})
            for _ in range(4092):
                try:
                    broker.supervisor.spawn(missing)
                except SpawnRefusedError:
                    continue
            for number in range(6):
                argv = [child, "daemon", str(number), "wait"]
                broker.spawn(argv, f"org.test.N{number}", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 12)
            release()
            await broker.all_emptied(6)
            await broker.wait(lambda: not len(broker.supervisor.processes))
        return {"events": broker.answer(), "messages": messages}


def unusable(hard: int) -> Any:
    """A hard limit that is not one of ours."""
    resource.setrlimit(RLIMIT_LOCKS, (hard, hard))
    tagger = Tagger()
    found = [tagger.stride, tagger.advance(), tagger.stride]
    return [*found, list(resource.getrlimit(RLIMIT_LOCKS))]


def low_soft_limit() -> Any:
    """Our starter set only the soft limit."""
    resource.setrlimit(RLIMIT_LOCKS, (5, resource.RLIM_INFINITY))
    value = Tagger().advance()
    return [value, list(resource.getrlimit(RLIMIT_LOCKS))]


def instances(depth: int) -> Any:
    """Ranges that brokers within brokers draw, two on each level, and the limits they set."""
    drawn = [in_child(_draw), _draw()]
    below = in_child(instances, depth - 1) if depth else []
    return [drawn, *below]


def _draw() -> Any:
    found = tag.draw_instance()
    limits = list(resource.getrlimit(resource.RLIMIT_RSS))
    return {"range": [found.low, found.high] if found else None, "limits": limits}


def drawn_under(soft: int, hard: int, refused: bool) -> Any:
    """The value drawn under limits of others, or where none can be set."""
    original = resource.setrlimit
    resource.setrlimit(resource.RLIMIT_RSS, (soft, hard))

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise PermissionError(kind, limits)

    if refused:
        resource.setrlimit = refuse
    found = _draw()
    resource.setrlimit = original
    return found


def beyond_resident_set() -> Any:
    """The resident set of a process under the smallest of these limits, in bytes."""
    resource.setrlimit(resource.RLIMIT_RSS, (4096, 4096))
    memory = bytearray(32 << 20)
    memory[::4096] = b"x" * len(memory[::4096])
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def untagged() -> Any:
    """The tag of a process that has none, and of one that is gone."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return [tag.read(os.getpid()), tag._read_file(os.getpid()), tag.read(pid), tag._read_file(pid)]  # noqa: SLF001 - the way for others' processes


async def refused_by_the_system(child: str) -> Any:
    """The limit cannot be set at all, as in a sandbox."""

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise PermissionError(kind, limits)

    original = resource.setrlimit
    resource.setrlimit = refuse
    try:
        async with Broker() as broker:
            broker.spawn([child, "daemon", "1", "now"], "org.test.Any")
            await broker.wait(lambda: len(broker.of_kind("exited")) == 3)
            return broker.answer()
    finally:
        resource.setrlimit = original


def readers(child: str, levels: Sequence[str], limit: int) -> Any:
    """Both ways to read a mark of living processes and zombies, ours and others'."""
    drop_capability_of_root()
    value = Tagger().advance()
    instance = tag.draw_instance()
    assert instance is not None
    if limit == resource.RLIMIT_RSS:
        value = instance.high
    found = {}
    for mode in levels:
        with pipe() as (reader, release):
            report, theirs = os.pipe()
            argv = [child, mode, "0", "wait"]
            pid = spawn(Program(argv=argv, name="", environ={}, fds={3: reader, 4: theirs}))
            os.close(theirs)
            # Who reports, or ends, has become what it is to be.
            os.read(report, 1)
            os.close(report)
            alive = _both(pid, limit)
            release()
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            zombie = _both(pid, limit)
            os.waitpid(pid, 0)
        found[mode] = [alive, zombie, _both(pid, limit)]
    return {"value": value, "found": found}


def reading_root() -> Any:
    """An ordinary user reads the tag of a process of root's: of the one that forked it."""
    value = Tagger().advance()
    parent = os.getpid()

    def look() -> Any:
        become(NOBODY)
        return _both(parent, RLIMIT_LOCKS)

    return {"value": value, "found": in_child(look)}


def _both(pid: int, limit: int) -> list[Any]:
    try:
        by_call: Any = resource.prlimit(pid, limit)[1]
    except PermissionError:
        by_call = "EPERM"
    except ProcessLookupError:
        by_call = None
    return [by_call, tag._read_file(pid, limit), tag.read(pid, limit)]  # noqa: SLF001 - both are compared


def decoding() -> Any:
    """What each value around the limits of ranges is taken for."""
    marks = Marks(1 << 12)
    top = 1 << 32
    for activation in (1, 2):
        marks.add(activation, tag=top - activation * (1 << 12), cgroup=None)
    edges = [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 12287, 12288, 12289]
    found = []
    for below in edges:
        whose, how = marks.attribute(Evidence(top - below, "", 0, 0))
        assert (whose is None) is (how is Attribution.NONE)
        found.append([below, whose])
    return found
