"""Directories in their order: which file wins, and which are a problem."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from broker.catalog.catalog import Catalog, Directory, load, standard_directories

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def write(directory: Path, file: str, name: str, program: str = "/bin/true") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / file
    path.write_text(f"[D-BUS Service]\nName={name}\nExec={program}\n")
    return path


def told(catalog: Catalog) -> list[str]:
    return [str(problem) for problem in catalog.problems]


def paths(environ: dict[str, str]) -> list[str]:
    return [directory.path for directory in standard_directories(environ)]


def test_standard_directories() -> None:
    environ = {
        "XDG_RUNTIME_DIR": "/run/user/1",
        "XDG_DATA_HOME": "/data",
        "XDG_DATA_DIRS": "/a:/b",
        "HOME": "/home/me",
    }
    assert standard_directories(environ) == (
        Directory("/run/user/1/dbus-1/services", strict=True, optional=True),
        Directory("/data/dbus-1/services", optional=True),
        Directory("/a/dbus-1/services", optional=True),
        Directory("/b/dbus-1/services", optional=True),
        Directory("/usr/share/dbus-1/services", optional=True),
    )


def test_standard_directories_without_variables() -> None:
    share = ["/usr/local/share/dbus-1/services", "/usr/share/dbus-1/services"]
    assert paths({}) == share
    assert paths({"HOME": "/home/me"}) == ["/home/me/.local/share/dbus-1/services", *share]
    empty = dict.fromkeys(["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_DATA_DIRS", "HOME"], "")
    assert paths(empty) == share
    assert paths(empty | {"HOME": "/h"}) == ["/h/.local/share/dbus-1/services", *share]


def test_relative_directories_are_ignored() -> None:
    environ = {
        "XDG_RUNTIME_DIR": "run",
        "XDG_DATA_HOME": "./data",
        "XDG_DATA_DIRS": "a:/b::../c",
        "HOME": "me",
    }
    assert paths(environ) == ["/b/dbus-1/services", "/usr/share/dbus-1/services"]


def test_each_directory_once() -> None:
    # The order is that of the first mention; the slashes are as the specification's own default.
    environ = {"XDG_DATA_DIRS": "/usr/share/:/usr/local/share/:/usr//share:/usr/./share"}
    assert paths(environ) == ["/usr/share/dbus-1/services", "/usr/local/share/dbus-1/services"]
    environ = {"XDG_RUNTIME_DIR": "/r", "XDG_DATA_DIRS": "/r/"}
    assert standard_directories(environ)[0].strict
    assert paths(environ) == ["/r/dbus-1/services", "/usr/share/dbus-1/services"]


def test_entries_are_sorted_by_name(tmp_path: Path) -> None:
    for index, name in enumerate(["c.c", "a.b", "a.a", "B.b"]):
        write(tmp_path, f"{index}.service", name)
    assert list(load([Directory(str(tmp_path))]).entries) == ["B.b", "a.a", "a.b", "c.c"]


def test_only_service_files(tmp_path: Path) -> None:
    write(tmp_path, "a.service", "a.a")
    for file in ("b", "b.service~", "b.SERVICE", ".b.service", ".service", "b.service.bak"):
        write(tmp_path, file, "b.b")
    catalog = load([Directory(str(tmp_path))])
    assert list(catalog.entries) == ["a.a"]
    assert told(catalog) == []


def test_the_first_directory_wins(tmp_path: Path) -> None:
    high = write(tmp_path / "high", "z.service", "a.a", "/bin/high")
    low = write(tmp_path / "low", "a.service", "a.a", "/bin/low")
    write(tmp_path / "low", "b.service", "b.b")
    directories = [Directory(str(high.parent)), Directory(str(low.parent))]
    catalog = load(directories)
    assert catalog.entries["a.a"].argv == ("/bin/high",)
    assert list(catalog.entries) == ["a.a", "b.b"]
    assert catalog.entries["a.a"].shadowed == (str(low),)
    assert catalog.entries["b.b"].shadowed == ()
    assert told(catalog) == []


def test_in_one_directory_the_first_file_wins(tmp_path: Path) -> None:
    # Byte order: capitals first, and a byte that is no UTF-8 last, though as the character that
    # Python makes of it, U+DCFF, it comes before U+FF5E.
    files = ["B.service", "a.service", "\uff5e.service", os.fsdecode(b"\xff.service")]
    first, *others = [write(tmp_path, file, "a.a", f"/{index}") for index, file in enumerate(files)]
    catalog = load([Directory(str(tmp_path))])
    assert catalog.entries["a.a"].argv == ("/0",)
    assert catalog.entries["a.a"].path == str(first)
    assert catalog.entries["a.a"].shadowed == tuple(map(str, others))
    assert told(catalog) == []


def test_those_that_lose_are_named_best_first(tmp_path: Path) -> None:
    # The higher directory's file is how a user decides between two packages' files.
    write(tmp_path / "high", "b.service", "a.a")
    losers = [write(tmp_path / "high", "c.service", "a.a")]
    losers += [write(tmp_path / "low", f"{file}.service", "a.a") for file in "ad"]
    directories = [Directory(str(tmp_path / each)) for each in ("high", "low")]
    catalog = load(directories)
    assert catalog.entries["a.a"].shadowed == tuple(map(str, losers))
    assert told(catalog) == []


def test_a_broken_file_costs_itself(tmp_path: Path) -> None:
    write(tmp_path / "high", "a.service", "a.a")
    broken = tmp_path / "high" / "b.service"
    broken.write_text("[D-BUS Service]\nName=b.b\nExec='\n")
    directory = tmp_path / "high" / "c.service"
    directory.mkdir()
    fifo = tmp_path / "high" / "d.service"
    os.mkfifo(fifo)
    write(tmp_path / "low", "b.service", "b.b")
    write(tmp_path / "low", "e.service", "e.e")
    catalog = load([Directory(str(tmp_path / "high")), Directory(str(tmp_path / "low"))])
    assert list(catalog.entries) == ["a.a", "b.b", "e.e"]
    assert told(catalog) == [
        f"{broken}:3: unclosed single quote",
        f"{directory}: is a directory, not a regular file",
        f"{fifo}: is a FIFO, not a regular file",
    ]


def test_names_of_files_in_a_strict_directory(tmp_path: Path) -> None:
    write(tmp_path, "a.a.service", "a.a")
    wrong = write(tmp_path, "other.service", "b.b")
    catalog = load([Directory(str(tmp_path), strict=True)])
    assert list(catalog.entries) == ["a.a"]
    assert told(catalog) == [f"{wrong}: not used: in this directory it must be named b.b.service"]


def test_file_names_that_are_no_utf8_in_a_strict_directory(tmp_path: Path) -> None:
    write(tmp_path, os.fsdecode(b"\xff.service"), "a.a")
    assert told(load([Directory(str(tmp_path), strict=True)])) == [
        f"{tmp_path}/\\udcff.service: not used: in this directory it must be named a.a.service"
    ]


def test_a_strict_directory_of_others_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.a.service", "a.a")
    directory = Directory(str(tmp_path), strict=True)
    tmp_path.chmod(0o777)
    assert told(load([directory])) == [f"{tmp_path}: not used: others can write to it"]
    tmp_path.chmod(0o700)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    catalog = load([directory])
    assert told(catalog) == [f"{tmp_path}: not used: belongs to uid {uid}, not to {uid + 1}"]
    assert not catalog.entries
    assert load([Directory(str(tmp_path))]).entries


def test_missing_directories(tmp_path: Path) -> None:
    write(tmp_path / "here", "a.service", "a.a")
    missing = tmp_path / "missing"
    here = Directory(str(tmp_path / "here"))
    for strict in (False, True):
        catalog = load([Directory(str(missing), strict=strict, optional=True), here])
        assert list(catalog.entries) == ["a.a"]
        assert told(catalog) == []
        catalog = load([Directory(str(missing), strict=strict), here])
        assert list(catalog.entries) == ["a.a"]
        assert told(catalog) == [f"{missing}: No such file or directory"]


def test_directories_that_cannot_be_read(tmp_path: Path) -> None:
    file = write(tmp_path, "a.service", "a.a")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    catalog = load(
        [Directory(str(path), optional=True) for path in (file, loop)] + [Directory(str(tmp_path))]
    )
    assert list(catalog.entries) == ["a.a"]
    assert told(catalog) == [
        f"{file}: Not a directory",
        f"{loop}: Too many levels of symbolic links",
    ]


def test_a_directory_given_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "a.service", "a.a")
    directory = Directory(str(tmp_path))
    assert load([directory, directory]).entries["a.a"].shadowed == ()


def test_systemds_placeholder_is_nobodys_problem(tmp_path: Path) -> None:
    write(tmp_path, "a.service", "org.freedesktop.systemd1", "/bin/false")
    catalog = load([Directory(str(tmp_path))])
    assert not catalog.entries
    assert told(catalog) == []


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    file = os.fsdecode(b"\xff\x1b\n.service")
    good = write(tmp_path, file, "a.a")
    write(tmp_path, os.fsdecode(b"\xff\xff.service"), "a.a")
    (tmp_path / os.fsdecode(b"\xfe.service")).write_text("x")
    catalog = load([Directory(str(tmp_path))])
    assert catalog.entries["a.a"].path == str(good)
    assert told(catalog) == [
        f"{tmp_path}/\\udcfe.service:1: no group header such as [D-BUS Service] comes before this",
    ]
    for problem in catalog.problems:
        str(problem).encode()
        assert problem.path.isprintable()


def test_two_thousand_files(tmp_path: Path) -> None:
    for index in range(2000):
        write(tmp_path, f"a.b{index}.service", f"a.b{index}")
    # The CPU's time, which does not depend on what else the machine does, and the best of three.
    times = []
    for _ in range(3):
        start = time.process_time()
        assert len(load([Directory(str(tmp_path))]).entries) == 2000
        times.append(time.process_time() - start)
    assert min(times) < 0.3
