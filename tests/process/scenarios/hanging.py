"""A disk that does not answer, in a mount namespace of the scenario's own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.process import local, procfs
from tests.fuse import Fuse
from tests.process.broker import Broker
from tests.process.harness import pipe

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNS: Final = 0x20000
_MS_BIND: Final = 0x1000
_MS_REC_PRIVATE: Final = 0x44000
_MNT_DETACH: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = [source.encode(), target.encode(), kind.encode(), flags, options.encode()]
    assert _libc.mount(*arguments) == 0, os.strerror(ctypes.get_errno())


@contextlib.contextmanager
def hung(directory: Path) -> Iterator[Path]:
    """A mount, in a directory, that does not answer."""
    assert _libc.unshare(_CLONE_NEWNS) == 0
    _mount("none", "/", flags=_MS_REC_PRIVATE)
    away = directory / "away"
    away.mkdir()
    with Fuse(answers=None) as fuse:
        fuse.mount(away)
        yield away


def looks(place: str) -> Any:
    """What is said of programs and directories, and of a mount that comes and goes."""
    directory = Path(place)
    with hung(directory) as away:
        programs = _programs(directory, away)
        found = {name: local.executes(str(path)) for name, path in programs.items()}
        directories = _directories(directory, away)
        found |= {name: local.holds_all_in(str(path)) for name, path in directories.items()}
        cold = directory / "cold"
        cold.mkdir()
        # Nothing of it is in the cache, whatever is of what it is made of.
        options = f"lowerdir={directory / 'files'}:{directory / 'links'}"
        _mount("overlay", str(cold), "overlay", options=options)
        names = ["script", "to a script", "to the program", "to nowhere", "none"]
        found |= {f"cold: {name}": local.executes(str(cold / name)) for name in names}
        found["cold: directory"] = local.holds_all_in(str(cold))
        assert _libc.umount2(os.fsencode(away), _MNT_DETACH) == 0
        found["when it has gone"] = local.executes(str(away / "program"))
    return found


def _programs(directory: Path, away: Path) -> dict[str, Path]:
    files, links = directory / "files", directory / "links"
    files.mkdir()
    links.mkdir()

    def script(name: str, interpreter: str | Path) -> Path:
        path = files / name
        path.write_text(f"#!{interpreter} -x\n")
        path.chmod(0o755)
        return path

    def link(name: str, target: str | Path) -> Path:
        (links / name).symlink_to(target)
        return links / name

    elf = files / "elf"
    loader = f"-Wl,--dynamic-linker={away}/ld.so"
    code = b"int main(void) { return 0; }"
    subprocess.run(["cc", "-x", "c", "-o", elf, loader, "-"], input=code, check=True)
    return {
        "program": away / "program",
        "the mount itself": away,
        "script": script("script", "/bin/sh"),
        "missing": directory / "none",
        "below a file": files / "script" / "none",
        "script of it": script("of-it", away / "program"),
        "script of a script of it": script("of-a-script", files / "of-it"),
        "interpreter of it": elf,
        "link": link("to the program", "../away/program"),
        "link to a link": link("to a link", links / "to the program"),
        "link that is no more": link("to nowhere", "none"),
        "link to a script": link("to a script", "../files/script"),
        "link to itself": link("loop", "loop"),
        "no path": Path("a\0b"),
    }


def _directories(directory: Path, away: Path) -> dict[str, Path]:
    plain, linked, mounted = (directory / name for name in ("plain", "linked", "a mount in it"))
    for each in (plain, linked, mounted, mounted / "sub"):
        each.mkdir()
    (plain / "a.service").write_text("")
    (plain / "b.service").symlink_to("a.service")
    (linked / "a.service").symlink_to(away / "a.service")
    _mount(str(away), str(mounted / "sub"), flags=_MS_BIND)
    return {"plain": plain, "linked": linked, "mounted": mounted, "away": away, "none": plain / "x"}


async def marks(child: str, place: str) -> Any:
    """A program hangs in its exec while others daemonize, and is ended then."""
    found: dict[str, Any] = {}
    async with Broker() as broker:
        with hung(Path(place)) as away, pipe() as (reader, release):
            process = broker.spawn([str(away / "program")], "org.test.Hung")
            for number in (1, 2):
                argv = [child, "daemon", str(number), "wait"]
                broker.spawn(argv, f"org.test.Daemon{number}", {3: reader})
            await broker.wait(lambda: len(broker.of_kind("exited")) == 4)
            release()
            await broker.all_emptied(2)
            found["whose"] = broker.supervisor._activations.attribute(process.pid)  # noqa: SLF001
            found["activation"] = process.activation
            found["starting"] = broker.supervisor.is_starting(process.pid)
            found["files"] = sorted(os.listdir(f"/proc/{process.pid}/fd"))[:3]
            found["open"] = len(os.listdir(f"/proc/{process.pid}/fd"))
            found["parent"] = procfs.parent(process.pid) == os.getpid()
            broker.supervisor.signal("org.test.Hung", signal.SIGTERM)
            await broker.all_emptied(3)
            found["starting at the end"] = broker.supervisor.is_starting(process.pid)
    return found | {"events": broker.answer()}
