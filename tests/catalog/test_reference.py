"""The catalog held against the reference: a real dbus-daemon reads the same files.

Where the two differ on purpose, the case says so in ``reason``, and the test insists on the
difference: an entry that is no longer true fails. Files that nobody thought of are in
``test_reference_fuzz.py``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.catalog.catalog import Directory, load, standard_directories
from broker.catalog.exec_line import ExecSyntaxError, split
from broker.catalog.names import is_bus_name
from tests.catalog.differences import (
    BLANK_AT_THE_END,
    COMMENT_AT_THE_END,
    COMMENT_IN_A_WORD,
    DOTFILE,
    EARLY,
    EMPTY_COMMENT,
    LONE_CR,
    NEWLINE,
    RESERVED_NAME,
    STRICT_NAME,
    SYSTEMD,
    explain,
    explain_exec,
)
from tests.catalog.reference import reference, service_directory, write_recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.catalog.reference import Reference

if shutil.which("dbus-daemon") is None:
    pytest.skip("the reference, dbus-daemon, is not installed", allow_module_level=True)


@dataclass(frozen=True)
class FileCase:
    """A file for both; ``@`` is its own bus name. ``reason``: why only one of them takes it."""

    id: str
    data: bytes
    reason: str = ""
    file: str = "@.service"
    # Under which it is listed.
    name: str = "@"

    def content(self, own_name: str) -> bytes:
        """What the file holds."""
        return self.data.replace(b"@", own_name.encode())


def _own_name(index: int) -> str:
    return f"org.example.Case{index:04}"


GOOD = b"[D-BUS Service]\nName=@\nExec=/bin/true\n"
# How much longer a file becomes when its name is put in the place of "@".
OWN_NAME_ADDS = len(_own_name(0)) - 1

FILES = (
    FileCase("plain", GOOD),
    FileCase("no newline at the end", GOOD[:-1]),
    FileCase("empty", b""),
    FileCase("CRLF", GOOD.replace(b"\n", b"\r\n")),
    FileCase("CR", GOOD.replace(b"\n", b"\r")),
    FileCase("line of blanks and a CR", GOOD + b" \t\f\r\n"),
    FileCase("spaces around =", GOOD.replace(b"=", b"  =  ")),
    FileCase("tab before =", GOOD.replace(b"Exec=", b"Exec\t=")),
    FileCase("tab after = belongs to the value", b"[D-BUS Service]\nName=@\nExec=\t/bin/true"),
    FileCase("no =", GOOD + b"Comment\n"),
    FileCase("spaces and no =", GOOD + b"Comment  \n"),
    FileCase("empty key", GOOD + b"=x\n"),
    FileCase("key with a blank in it", GOOD + b"My Key=x\n"),
    FileCase("key with an underscore", GOOD + b"X_Key=x\n"),
    FileCase("key with a dot", GOOD + b"X.Key=x\n"),
    FileCase("key with a letter that is not ASCII", GOOD + "Schlüssel=x\n".encode()),
    FileCase("unknown key", GOOD + b"X-Key-2=x\n"),
    FileCase("keys in lower case", b"[D-BUS Service]\nname=@\nexec=/bin/true\n"),
    FileCase("blank before a key", GOOD + b" User=root\n"),
    FileCase("blank before a comment", GOOD + b" # x\n"),
    FileCase("blank before the first group", b" " + GOOD),
    FileCase("comments and empty lines", b"# x\n\n \t\n#\n" + GOOD + b"\n# end"),
    FileCase("other comment signs", GOOD + b"; x\n"),
    FileCase("key before any group", b"Name=@\n" + GOOD),
    FileCase("byte order mark", b"\xef\xbb\xbf" + GOOD),
    FileCase("byte order mark and a comment", b"\xef\xbb\xbf# x\n" + GOOD),
    FileCase("byte order mark later on", GOOD + b"\xef\xbb\xbfUser=x\n"),
    FileCase("not UTF-8", GOOD + b"# caf\xe9\n"),
    FileCase("surrogate in UTF-8", GOOD + b"# \xed\xa0\x80\n"),
    FileCase("noncharacter in UTF-8", GOOD + b"# \xef\xbf\xbf\n"),
    FileCase("beyond Unicode", GOOD + b"# \xf4\x90\x80\x80\n"),
    FileCase("NUL in a comment", GOOD + b"# \0\n"),
    FileCase("NUL at the end", GOOD + b"\0"),
    FileCase("other line ends are none", GOOD + "User=\u2028\x0b\x0c\x85\n".encode()),
    FileCase("128 KiB", GOOD + b"#" * (128 * 1024 - len(GOOD) - OWN_NAME_ADDS)),
    FileCase("more than 128 KiB", GOOD + b"#" * (128 * 1024 - len(GOOD) - OWN_NAME_ADDS + 1)),
    FileCase("escapes", b"[D-BUS Service]\nName=@\nExec=/bin/a\\s\\t\\n\\r\\\\\\\\b\n"),
    FileCase("unknown escape", GOOD + b"User=a\\b\n"),
    FileCase("unknown escape in another group", GOOD + b"[Other]\nX=a\\;b\n"),
    FileCase("unknown escape in a locale", GOOD + b"User[de]=a\\b\n"),
    FileCase("backslash at the end", GOOD + b"User=a\\\n"),
    FileCase("locale without =", GOOD + b"User[de\n"),
    FileCase("locale only", b"[D-BUS Service]\nName[de]=@\nExec=/bin/true\n"),
    FileCase("space before a locale", GOOD + b"User [de]=x\n"),
    FileCase("no group", b"[Desktop Entry]\nName=@\nExec=/bin/true\n"),
    FileCase("group in lower case", GOOD.replace(b"D-BUS", b"d-bus")),
    FileCase("group after another", b"[Other]\nName=a.b\n" + GOOD),
    FileCase("group twice, complete", GOOD + b"[D-BUS Service]\nName=not.this\n"),
    FileCase(
        "group twice, Exec in the second", b"[D-BUS Service]\nName=@\n[D-BUS Service]\nExec=/x"
    ),
    FileCase("group twice, the first empty", b"[D-BUS Service]\n" + GOOD),
    FileCase("group without ]", GOOD + b"[Other\n"),
    FileCase("group with a blank after it", GOOD.replace(b"]", b"] ")),
    FileCase("group without a name", GOOD + b"[]\n"),
    FileCase("bracket alone", GOOD + b"[\n"),
    FileCase("group with a bracket in it", GOOD + b"[a]b]\n"),
    FileCase("group with a tab in it", GOOD + b"[a\tb]\n"),
    FileCase("group that is not ASCII", GOOD + "[Änderung]\n".encode()),
    FileCase("group with every other sign", GOOD + b"[ !\"#$%&'()*+,-./:;<=>?@\\^_`{|}~]\n"),
    FileCase("Name twice", GOOD + b"Name=not.this\n"),
    FileCase("no Name", b"[D-BUS Service]\nExec=/bin/true\n"),
    FileCase("empty Name", b"[D-BUS Service]\nName=\nExec=/bin/true\n", STRICT_NAME, name=""),
    FileCase("blank after Name", GOOD.replace(b"@", b"@ "), STRICT_NAME, name="@ "),
    FileCase("tab before Name", GOOD.replace(b"@", b"\t@"), STRICT_NAME, name="\t@"),
    FileCase("one element", GOOD.replace(b"@", b"single"), STRICT_NAME, name="single"),
    FileCase("unique name", GOOD.replace(b"@", b":1.99"), STRICT_NAME, name=":1.99"),
    FileCase("two dots", GOOD.replace(b"@", b"bad..name"), STRICT_NAME, name="bad..name"),
    FileCase(
        "reserved",
        GOOD.replace(b"@", b"org.activation.Broker1"),
        RESERVED_NAME,
        name="org.activation.Broker1",
    ),
    FileCase("no Exec", b"[D-BUS Service]\nName=@\n"),
    FileCase(
        "empty Exec",
        b"[D-BUS Service]\nName=@\nExec=\n",
        EARLY,
    ),
    FileCase(
        "unclosed quote",
        b"[D-BUS Service]\nName=@\nExec=/bin/true 'a\n",
        EARLY,
    ),
    FileCase("other file name", GOOD, file="anything at all.service"),
    FileCase("suffix only in part", GOOD, file="@.service~"),
    FileCase("no suffix", GOOD, file="@"),
    FileCase("suffix in capitals", GOOD, file="@.SERVICE"),
    FileCase("dotfile", GOOD, DOTFILE, file=".@.service"),
    FileCase(
        "SystemdService only",
        b"[D-BUS Service]\nName=@\nSystemdService=x.service\n",
        SYSTEMD,
    ),
    FileCase(
        "blank line ended by a lone CR",
        GOOD.replace(b"\n", b"\r") + b"\r# x\n",
        LONE_CR,
    ),
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("services")
    recorder = write_recorder(path / "rec order")
    for index, case in enumerate(FILES):
        name = _own_name(index)
        (path / case.file.replace("@", name)).write_bytes(case.content(name))
    for index, line in enumerate(EXEC_LINES):
        escaped = (
            line.text.replace("P", f"'{recorder}'")
            .replace("\\", "\\\\")
            .replace("\n", "\\n")
            .replace("\t", "\\t")
            .replace("\r", "\\r")
        )
        if escaped.startswith(" "):
            escaped = f"\\s{escaped[1:]}"
        text = f"[D-BUS Service]\nName=org.example.Exec{index:04}\nExec={escaped}\n"
        (path / f"exec{index}.service").write_text(text)
    return path


@pytest.fixture(scope="module")
def bus(services: Path) -> Iterator[Reference]:
    with reference(service_directory(services)) as bus:
        yield bus


@pytest.fixture(scope="module")
def listed(bus: Reference) -> set[str]:
    return bus.activatable()


@pytest.fixture(scope="module")
def loaded(services: Path) -> set[str]:
    return set(load([Directory(str(services))]).entries)


@pytest.mark.parametrize("index", range(len(FILES)), ids=[case.id for case in FILES])
def test_file(index: int, listed: set[str], loaded: set[str]) -> None:
    case = FILES[index]
    name = case.name.replace("@", _own_name(index))
    assert (name in loaded) == (name in listed) ^ bool(case.reason)
    if case.file.endswith(".service") and case.reason != DOTFILE:
        reading = explain(case.content(_own_name(index)))
        assert (name in listed) == (reading.reference is not None)
        assert not case.reason or case.reason in reading.reasons


def test_the_table_has_files_of_both_kinds(listed: set[str], loaded: set[str]) -> None:
    # Should the daemon see no directory at all, every comparison of refused files would hold.
    taken = {index for index in range(len(FILES)) if _own_name(index) in listed & loaded}
    assert 15 < len(taken) < len(FILES) - 15
    assert "not.this" not in listed | loaded


@dataclass(frozen=True)
class ExecLine:
    """A command line, where ``P`` is the recorder; ``reason``: why the words are others."""

    text: str
    reason: str = ""


EXEC_LINES = (
    ExecLine("P"),
    ExecLine("P a b"),
    ExecLine("  P   a\t\tb"),
    ExecLine("P ''"),
    ExecLine('P "" \'\' a""b'),
    ExecLine("P 'a b' c"),
    ExecLine("P 'a\\b' 'a\\\\b' '\\'"),
    ExecLine("P 'it'\\''s'"),
    ExecLine('P "it\'s" \'say "hi"\''),
    ExecLine(r'P "\$ \` \" \\"'),
    ExecLine(r'P "\a \n \' \# \ "'),
    ExecLine('P "a\\\nb"'),
    ExecLine("P \"a\nb\" 'a\nb'"),
    ExecLine(r"P \a \  \' \" \\ \$ \# \;"),
    ExecLine("P a\\\nb"),
    ExecLine("P a \\\n b"),
    ExecLine("P a\\\n"),
    ExecLine("P $HOME ${HOME} `id` $(id) ~ * ? [a-z] %u"),
    ExecLine("P a; b && c | d > e < f & !g"),
    ExecLine("P --option=a=b 'x'y\"z\""),
    ExecLine("P a\nb"),
    ExecLine("P 'ü' “x” \u00a0 \u2028"),
    ExecLine("P a\rb \r c\vd\fe"),
    ExecLine("P '#a' \"#b\" \\#c"),
    ExecLine("P a #b\nc"),
    ExecLine("P 'a"),
    ExecLine('P "a'),
    ExecLine('P "a\\"'),
    ExecLine("P a\\"),
    ExecLine("P 'a' 'b"),
    ExecLine("P a'"),
    ExecLine("P a ", BLANK_AT_THE_END),
    ExecLine("P a\t", BLANK_AT_THE_END),
    ExecLine("P ", BLANK_AT_THE_END),
    ExecLine("P \\\n", BLANK_AT_THE_END),
    ExecLine("P a#b c", COMMENT_IN_A_WORD),
    ExecLine("P http://x/#y z", COMMENT_IN_A_WORD),
    ExecLine("P a#b\nc", COMMENT_IN_A_WORD),
    ExecLine("P ''#x", COMMENT_IN_A_WORD),
    ExecLine("P a #", EMPTY_COMMENT),
    ExecLine("P #b", COMMENT_AT_THE_END),
    ExecLine("P a #b c", COMMENT_AT_THE_END),
    ExecLine("P a #'", COMMENT_AT_THE_END),
    ExecLine("P a\n", NEWLINE),
    ExecLine("P a\n\nb", NEWLINE),
    ExecLine("P a \nb", NEWLINE),
)


@pytest.mark.parametrize(
    "index", range(len(EXEC_LINES)), ids=[ascii(line.text) for line in EXEC_LINES]
)
def test_exec_line(index: int, bus: Reference) -> None:
    line = EXEC_LINES[index]
    words, reasons = explain_exec(line.text)
    assert bus.run(f"org.example.Exec{index:04}") == (words[1:] if words else None)
    try:
        differs = split(line.text) != words
    except ExecSyntaxError:
        differs = words is not None
    assert differs == bool(line.reason)
    if differs:
        assert reasons == {line.reason}


NAME_PIECES = st.sampled_from([*"aZ_-09.: \n/", "ü", "٣", "a.b", ".a", "x" * 100])


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NAME_PIECES, max_size=5).map("".join))
@example("a.b\n")
@example("a." + "b" * 253)
@example("a." + "b" * 254)
@example("a.b-c")
@example("-.-")
@example("a.1")
@example(".a.b")
@example("a.b.")
def test_names(bus: Reference, name: str) -> None:
    assert is_bus_name(name) == bus.takes(name)


def test_standard_directories(tmp_path: Path) -> None:
    prefix = "org.activation.Test.Standard"  # the host has directories of its own
    # Each directory provides its own name, and its number under each name of the ones above.
    environ = {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "0"),
        "XDG_DATA_HOME": str(tmp_path / "1"),
        "XDG_DATA_DIRS": f"{tmp_path / '2'}:{tmp_path / '3'}/",
    }
    recorder = write_recorder(tmp_path / "recorder")
    for number in range(4):
        path = tmp_path / str(number) / "dbus-1" / "services"
        path.mkdir(0o700, parents=True)
        for name in [f"{prefix}.N{above}" for above in range(number + 1)]:
            text = f"[D-BUS Service]\nName={name}\nExec={recorder} {number}\n"
            (path / f"{name}.service").write_text(text)
    # In the transient directory only, the file's name is part of the rules.
    for number in (0, 1):
        path = tmp_path / str(number) / "dbus-1" / "services"
        text = f"[D-BUS Service]\nName={prefix}.Other{number}\nExec={recorder}\n"
        (path / f"other{number}.service").write_text(text)
    catalog = load(standard_directories(environ))
    ours = {name for name in catalog.entries if name.startswith(prefix)}
    with reference("<standard_session_servicedirs/>", environ) as bus:
        listed = {name for name in bus.activatable() if name.startswith(prefix)}
        assert ours == listed
        assert len(ours) == 5
        for number in range(4):
            name = f"{prefix}.N{number}"
            assert catalog.entries[name].argv[1:] == bus.run(name) == (str(number),)
