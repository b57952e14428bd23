"""The catalog held against the reference: a real dbus-daemon reads the same files.

Where the two differ on purpose, the case says so in ``reason``, and the test insists on the
difference: an entry that is no longer true fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.catalog.catalog import Directory, load, standard_directories
from broker.catalog.exec_line import ExecSyntaxError, split
from broker.catalog.key_file import KeyFileError, read_group
from broker.catalog.names import is_bus_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

if shutil.which("dbus-daemon") is None:
    pytest.skip("the reference, dbus-daemon, is not installed", allow_module_level=True)

DRIVER = "org.freedesktop.DBus"
CONFIG = """<busconfig>
<type>session</type><listen>unix:dir={run}</listen><auth>EXTERNAL</auth>{directories}
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""
# Ends with 1, so that the daemon answers the start with an error as soon as the record is complete.
RECORDER = """#!/bin/sh
for argument in "$@"; do printf '%s\\000' "$argument"; done > "$RECORD"
exit 1
"""


class Reference:
    """A connection to a dbus-daemon: calls to its driver, one at a time, and their answers."""

    def __init__(self, connection: socket.socket, record: Path) -> None:
        self._socket = connection
        self._record = record
        self._serial = 0
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
        assert self._socket.recv(100).startswith(b"OK ")
        self._socket.sendall(b"BEGIN\r\n")
        self.call("Hello")

    def activatable(self) -> set[str]:
        """The names that the daemon would start, but its own."""
        _, body = self.call("ListActivatableNames")
        names, at = set(), 4
        while at < len(body):
            name, at = _read_string(body, at)
            names.add(name)
        return names - {DRIVER}

    def run(self, name: str) -> tuple[str, ...] | None:
        """The arguments that the service's program got; None if the daemon did not run it."""
        self._record.unlink(missing_ok=True)
        error, body = self.call("StartServiceByName", name, 0)
        if error == f"{DRIVER}.Error.Spawn.ChildExited":
            return tuple(self._record.read_bytes().decode().split("\0")[:-1])
        assert error == f"{DRIVER}.Error.InvalidArgs", (error, body)
        assert b"Unclosed quotes" in body
        return None

    def takes(self, name: str) -> bool:
        """Whether the daemon lets a client own the name."""
        error, _ = self.call("RequestName", name, 0)
        if not error:
            self.call("ReleaseName", name)
        return not error

    def call(
        self, member: str, text: str | None = None, number: int | None = None
    ) -> tuple[str, bytes]:
        """Calls a method with no argument, a string, or a string and a number: error name, body."""
        self._serial += 1
        body = b""
        fields = [
            _field(1, "o", "/org/freedesktop/DBus"),
            _field(6, "s", DRIVER),
            _field(2, "s", DRIVER),
            _field(3, "s", member),
        ]
        if text is not None:
            body = _string(text)
            signature = b"s"
            if number is not None:
                body += bytes(-len(body) % 4) + struct.pack("<I", number)
                signature = b"su"
            fields.append(b"\x08\x01g\0" + bytes([len(signature)]) + signature + b"\0")
        # Each field starts at a multiple of eight; the array's size is without the last padding.
        array = b"".join(field + bytes(-len(field) % 8) for field in fields[:-1]) + fields[-1]
        head = struct.pack("<cBBBIII", b"l", 1, 0, 1, len(body), self._serial, len(array)) + array
        self._socket.sendall(head + bytes(-len(head) % 8) + body)
        while True:
            head = self._receive(16)
            _, kind, _, _, body_size, _, size = struct.unpack("<cBBBIII", head)
            known = _read_fields(self._receive(size + -size % 8)[:size])
            body = self._receive(body_size)
            # Signals, such as NameAcquired, have no reply serial.
            if known.get(5) == self._serial:
                error = known[4] if kind == 3 else ""
                assert isinstance(error, str)
                return error, body

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            assert chunk, "dbus-daemon closed the connection"
            data += chunk
        return data


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _field(code: int, signature: str, value: str) -> bytes:
    return bytes([code, 1]) + signature.encode() + b"\0" + _string(value)


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    at += -at % 4
    (size,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + size].decode(), at + 4 + size + 1


def _read_fields(data: bytes) -> dict[int, str | int]:
    found: dict[int, str | int] = {}
    at = 0
    while at < len(data):
        at += -at % 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"u":
            (found[code],) = struct.unpack_from("<I", data, at)
            at += 4
        elif kind == b"g":
            at += data[at] + 2
        else:
            found[code], at = _read_string(data, at)
    return found


@contextlib.contextmanager
def reference(directories: str, environ: Mapping[str, str] | None = None) -> Iterator[Reference]:
    """Starts a dbus-daemon on the directories (elements of its configuration), and ends it."""
    # Not in tmp_path, which may be too long for a socket's address.
    with tempfile.TemporaryDirectory() as run:
        config = Path(run, "bus.conf")
        config.write_text(CONFIG.format(run=run, directories=directories))
        record = Path(run, "record")
        command = ["dbus-daemon", f"--config-file={config}", "--print-address=1"]
        with subprocess.Popen(
            [*command, "--nofork", "--nopidfile", "--nosyslog"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {}), "RECORD": str(record)},
        ) as daemon:
            assert daemon.stdout
            try:
                address = re.search(r"unix:path=([^,\s]+)", daemon.stdout.readline())
                assert address, "dbus-daemon did not start"
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(20)
                    connection.connect(address[1])
                    yield Reference(connection, record)
            finally:
                daemon.terminate()


def service_directory(path: Path) -> str:
    return f"<servicedir>{path}</servicedir>"


@dataclass(frozen=True)
class FileCase:
    """A file for both; ``@`` is its own bus name. ``reason``: why only dbus-daemon takes it."""

    id: str
    data: bytes
    reason: str = ""
    file: str = "@.service"
    # Under which the reference lists it.
    name: str = "@"


def _own_name(index: int) -> str:
    return f"org.example.Case{index:04}"


GOOD = b"[D-BUS Service]\nName=@\nExec=/bin/true\n"
# How much longer a file becomes when its name is put in the place of "@".
OWN_NAME_ADDS = len(_own_name(0)) - 1
STRICT_NAME = "clients cannot ask for an invalid name; dbus-broker refuses it"

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
        GOOD.replace(b"@", b"org.freedesktop.systemd1"),
        "the broker owns it, as the daemon's activator",
        name="org.freedesktop.systemd1",
    ),
    FileCase("no Exec", b"[D-BUS Service]\nName=@\n"),
    FileCase(
        "empty Exec",
        b"[D-BUS Service]\nName=@\nExec=\n",
        "said when the file is read, not when somebody needs the service",
    ),
    FileCase(
        "unclosed quote",
        b"[D-BUS Service]\nName=@\nExec=/bin/true 'a\n",
        "said when the file is read, not when somebody needs the service",
    ),
    FileCase("other file name", GOOD, file="anything at all.service"),
    FileCase("suffix only in part", GOOD, file="@.service~"),
    FileCase("no suffix", GOOD, file="@"),
    FileCase("suffix in capitals", GOOD, file="@.SERVICE"),
    FileCase("dotfile", GOOD, "an editor's, or half written; as dbus-broker", file=".@.service"),
)
# The other way round: what only the catalog takes.
WIDER_FILES = (
    FileCase(
        "SystemdService only",
        b"[D-BUS Service]\nName=@\nSystemdService=x.service\n",
        "as dbus-broker; activated by systemd there, never by the Exec that dbus-daemon wants",
    ),
    FileCase(
        "blank line ended by a lone CR",
        GOOD.replace(b"\n", b"\r") + b"\r# x\n",
        "dbus-daemon tells a blank line by its \\n, but ends it at the \\r; not worth a rule",
    ),
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("services")
    recorder = path / "rec order"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    for index, case in enumerate((*FILES, *WIDER_FILES)):
        name = _own_name(index)
        data = case.data.replace(b"@", name.encode())
        (path / case.file.replace("@", name)).write_bytes(data)
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
    if case.reason:
        assert name in listed
        assert name not in loaded
    else:
        assert (name in loaded) == (name in listed)


@pytest.mark.parametrize("index", range(len(WIDER_FILES)), ids=[case.id for case in WIDER_FILES])
def test_wider_file(index: int, listed: set[str], loaded: set[str]) -> None:
    name = _own_name(len(FILES) + index)
    assert name in loaded
    assert name not in listed


def test_the_table_has_files_of_both_kinds(listed: set[str], loaded: set[str]) -> None:
    # Should the daemon see no directory at all, every comparison of refused files would hold.
    taken = {index for index in range(len(FILES)) if _own_name(index) in listed & loaded}
    assert 15 < len(taken) < len(FILES) - 15
    assert "not.this" not in listed | loaded


@dataclass(frozen=True)
class ExecLine:
    """A command line, where ``P`` is the recorder; ``reason`` and the reference's other answer."""

    text: str
    reason: str = ""
    reference: tuple[str, ...] | None = ()


BLANK_AT_THE_END = "no program wants the empty argument; Debian's tracker descriptors end so"
COMMENT_IN_A_WORD = "cuts URLs; sh and dbus-broker take a comment at the start of a word only"
COMMENT_AT_THE_END = "a comment is no argument, not even an empty one"
NEWLINE = "newlines are blanks; an empty argument for an empty line is of use to nobody"

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
    ExecLine("P a ", BLANK_AT_THE_END, ("a", "")),
    ExecLine("P a\t", BLANK_AT_THE_END, ("a", "")),
    ExecLine("P ", BLANK_AT_THE_END, ("",)),
    ExecLine("P \\\n", BLANK_AT_THE_END, ("",)),
    ExecLine("P a#b c", COMMENT_IN_A_WORD, ("a",)),
    ExecLine("P http://x/#y z", COMMENT_IN_A_WORD, ("http://x/",)),
    ExecLine("P a#b\nc", COMMENT_IN_A_WORD, ("ac",)),
    ExecLine("P ''#x", COMMENT_IN_A_WORD, ("",)),
    ExecLine("P a #", "an empty comment is one, and no unclosed quote", None),
    ExecLine("P #b", COMMENT_AT_THE_END, ("",)),
    ExecLine("P a #b c", COMMENT_AT_THE_END, ("a", "")),
    ExecLine("P a #'", COMMENT_AT_THE_END, ("a", "")),
    ExecLine("P a\n", NEWLINE, ("a", "")),
    ExecLine("P a\n\nb", NEWLINE, ("a", "", "b")),
    ExecLine("P a \nb", NEWLINE, ("a", "", "b")),
)


@pytest.mark.parametrize(
    "index", range(len(EXEC_LINES)), ids=[ascii(line.text) for line in EXEC_LINES]
)
def test_exec_line(index: int, bus: Reference) -> None:
    line = EXEC_LINES[index]
    reference = bus.run(f"org.example.Exec{index:04}")
    try:
        words = split(line.text)
    except ExecSyntaxError:
        ours = None
    else:
        assert words[0] == "P"
        ours = words[1:]
    if line.reason:
        assert reference == line.reference
        assert ours != line.reference
    else:
        assert ours == reference


# No "#", no newline outside quotes and no blank at the end: the differences are in the table.
EXEC_PIECES = st.sampled_from(
    [*" \t'\"\\$`a=;ü", "\\\\", "\\'", '\\"', "' '", '" "', "'\n'", '"\n"', "''", '""', "b c"]
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(EXEC_PIECES, max_size=12).map("".join), min_size=60, max_size=60))
def test_exec_lines_by_hypothesis(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        recorder = path / "recorder"
        recorder.write_text(RECORDER)
        recorder.chmod(0o755)
        lines = [f"{recorder} {text} ." for text in texts]
        for index, line in enumerate(lines):
            value = line.replace("\\", "\\\\").replace("\n", "\\n")
            text = f"[D-BUS Service]\nName=org.example.Exec{index}\nExec={value}\n"
            (path / f"{index}.service").write_text(text)
        with reference(service_directory(path)) as bus:
            for index, line in enumerate(lines):
                expected = bus.run(f"org.example.Exec{index}")
                try:
                    ours = split(line)[1:]
                except ExecSyntaxError:
                    assert expected is None, line
                else:
                    assert expected is not None, line
                    # A quote can leave a newline outside: then the reference adds empty arguments.
                    if "\n" in line:
                        assert [w for w in ours if w] == [w for w in expected if w], line
                    else:
                        assert ours == expected, line


# A file of well-formed lines with one line of noise in it, often in a place that takes most of it;
# about two of five files are taken. No lone CR: for a line of blanks, see WIDER_FILES.
WELL_FORMED = st.sampled_from(
    [
        b"[D-BUS Service]",
        b"[Other]",
        b"# comment",
        b"",
        b" \t\f",
        b"Exec=/bin/true",
        b"Exec = a b",
        b"Name=@x",
        b"Name[de]=x",
        b"X-Y=\\s\\t\\n\\r\\\\",
    ]
)
NOISE = st.one_of(
    st.lists(
        st.sampled_from([*map(bytes, zip(b"aZ09-_.=[]#\\ \t;\x01\x7f\x0b")), "ü\uffff".encode()]),
        max_size=5,
    ).map(b"".join),
    st.binary(max_size=3).filter(lambda line: b"\r" not in line),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A descriptor, sound or not, in which ``@`` is its own bus name."""
    start = draw(
        st.sampled_from([b"[D-BUS Service]|Name=@|Exec=/x", b"[D-BUS Service]|Name=@", b""])
    )
    lines = [*start.split(b"|"), *draw(st.lists(WELL_FORMED, max_size=3))]
    if draw(st.booleans()):
        before = draw(st.sampled_from([b"", b"#", b"X=", b"X", b"X[", b"[", b"X=\\"]))
        after = draw(st.sampled_from([b"", b"", b"]"]))
        lines.insert(draw(st.integers(0, len(lines))), before + draw(NOISE) + after)
    return draw(st.sampled_from([b"\n", b"\r\n"])).join(lines)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(files(), min_size=100, max_size=100))
def test_files_by_hypothesis(templates: list[bytes]) -> None:
    expected = set()
    with tempfile.TemporaryDirectory() as name:
        for index, template in enumerate(templates):
            data = template.replace(b"@", _own_name(index).encode())
            Path(name, f"{index}.service").write_bytes(data)
            # The format alone: what the catalog makes of a name or an Exec is in the table.
            with contextlib.suppress(KeyFileError):
                keys = read_group(data, "D-BUS Service")
                if keys and "Name" in keys and "Exec" in keys:
                    expected.add(keys["Name"].text)
        with reference(service_directory(Path(name))) as bus:
            assert bus.activatable() == expected


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
    # Each directory provides its own name, and its number under each name of the ones above.
    environ = {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "0"),
        "XDG_DATA_HOME": str(tmp_path / "1"),
        "XDG_DATA_DIRS": f"{tmp_path / '2'}:{tmp_path / '3'}/",
    }
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    for number in range(4):
        path = tmp_path / str(number) / "dbus-1" / "services"
        path.mkdir(0o700, parents=True)
        for name in [f"org.example.N{above}" for above in range(number + 1)]:
            text = f"[D-BUS Service]\nName={name}\nExec={recorder} {number}\n"
            (path / f"{name}.service").write_text(text)
    # In the transient directory only, the file's name is part of the rules.
    for number in (0, 1):
        path = tmp_path / str(number) / "dbus-1" / "services"
        text = f"[D-BUS Service]\nName=org.example.Other{number}\nExec={recorder}\n"
        (path / f"other{number}.service").write_text(text)
    catalog = load(standard_directories(environ))
    ours = {name for name in catalog.entries if name.startswith("org.example.")}
    with reference("<standard_session_servicedirs/>", environ) as bus:
        listed = {name for name in bus.activatable() if name.startswith("org.example.")}
        assert ours == listed
        assert len(ours) == 5
        for number in range(4):
            name = f"org.example.N{number}"
            assert catalog.entries[name].argv[1:] == bus.run(name) == (str(number),)
