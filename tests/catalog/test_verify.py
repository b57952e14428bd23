"""What ``verify`` finds in descriptors, each with its file and line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from broker.catalog.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "[D-BUS Service]\nName=org.example.Good\nExec=/bin/true\n"


def found(path: Path, *more: Path) -> list[str]:
    """The findings, with file names in place of paths."""
    return [
        str(each).replace(f"{path.parent}/", "") for each in verify([str(path), *map(str, more)])
    ]


def one(directory: Path, text: str, name: str = "org.example.Good.service") -> list[str]:
    file = directory / name
    file.write_text(text)
    return found(file)


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    assert one(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("[D-BUS Service]\nName=org.example.Good\nExec='/bin/true\n", 3, "unclosed single quote"),
        ("[D-BUS Service]\nName=org..Good\nExec=/bin/true\n", 2, "not a valid bus name"),
        ("[D-BUS Service]\nName=org.example.Good\nExec=true\n", 3, "not an absolute path"),
        ("[D-BUS Service]\nName=org.example.Good\nExec=/no/such\n", 3, "No such file"),
        ("[D-BUS Service]\nName=org.example.Good\nExec=/usr\n", 3, "is a directory"),
        ("[D-BUS Service]\nName=org.example.Good\nExec=/etc/passwd\n", 3, "Permission denied"),
        (GOOD + "User=root\n", 4, "User=root has no effect"),
        ("[D-BUS Service]\nName=org.example.Good\nSystemdService=x\n", 3, "there is no Exec"),
    ],
)
def test_each_finding_names_its_line(tmp_path: Path, text: str, line: int, part: str) -> None:
    (finding,) = one(tmp_path, text)
    assert finding.startswith(f"org.example.Good.service:{line}: ")
    assert part in finding


def test_a_file_that_is_not_called_after_its_name(tmp_path: Path) -> None:
    (finding,) = one(tmp_path, GOOD, "good.service")
    assert finding.startswith("good.service:2: the file should be called org.example.Good.service")


def test_a_name_that_an_earlier_directory_provides(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        directory.mkdir()
        (directory / "org.example.Good.service").write_text(GOOD)
    (finding,) = found(first, second)
    file = "org.example.Good.service"
    assert finding == f"b/{file}:2: not used: a/{file} provides org.example.Good already"


def test_everything_in_a_directory_is_looked_at_in_its_order(tmp_path: Path) -> None:
    directory = tmp_path / "services"
    directory.mkdir()
    (directory / "b.service").write_text("nonsense\n")
    (directory / "a.service").write_text("")
    (directory / ".hidden.service").write_text("nonsense\n")
    (directory / "other.txt").write_text("nonsense\n")
    os.mkfifo(directory / "c.service")
    assert [each.rpartition("/")[2].split(":")[0] for each in found(directory)] == [
        "a.service",
        "b.service",
        "c.service",
    ]


def test_systemds_own_file_is_nobodys_mistake(tmp_path: Path) -> None:
    text = "[D-BUS Service]\nName=org.freedesktop.systemd1\nExec=/bin/false\n"
    assert one(tmp_path, text, "org.freedesktop.systemd1.service") == []
