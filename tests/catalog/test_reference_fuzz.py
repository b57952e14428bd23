"""The catalog held against a real dbus-daemon on files that nobody thought of.

Whole files are built of sound and of broken parts, and then some of their bytes are
changed. Both must take and refuse the same ones, under the same name, and split the same
words; what is not so by a reason in ``differences.py`` fails, with the file in its shortest form.

A run tries the same files each time. For others, and more of them:

    REFERENCE_FUZZ=50000 pytest tests/catalog/test_reference_fuzz.py --hypothesis-seed=1 --timeout=0
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.catalog.differences import agree, explain, ours
from tests.catalog.reference import DRIVER, reference, service_directory, write_recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.catalog.reference import Reference

if shutil.which("dbus-daemon") is None:
    pytest.skip("the reference, dbus-daemon, is not installed", allow_module_level=True)

FILES = int(os.environ.get("REFERENCE_FUZZ", "0"))

# In a file, `@` is a name of its own and `RUN` the program that tells its arguments.

# What a shell's words are made of.
SIGNS = [*" \t\n\r'\"\\$`a=;#ü~%", " ", " x", " 'y z'", "\\\\", "\\'", '\\"', "\\\n", "\\#"]
QUOTED = ["' '", '" "', "'\n'", '"\n"', "''", '""', "'#'", " #", "# ", " # c\n", "\n\n"]
EXEC = st.lists(st.one_of(st.sampled_from(SIGNS), st.sampled_from(QUOTED)), max_size=8).map("".join)


def escaped(text: str) -> bytes:
    """A key file's value for a text."""
    for char, sign in ("\\\\", "\nn", "\tt", "\rr"):
        text = text.replace(char, f"\\{sign}")
    return text.encode()


# What a value may be made of when its escapes are not sound.
RAW = st.lists(
    st.sampled_from(
        [rb"\s", rb"\t", rb"\n", rb"\r", rb"\\", rb"\;", b"\\", b"x", b" ", b"=", b"#"]
    ),
    max_size=4,
).map(b"".join)

EQUALS = st.sampled_from([b"=", b"=", b"=", b" =", b"= ", b"  =  ", b"\t=", b"=\t", b""])
KEYS = st.one_of(
    st.sampled_from(
        [b"X-Y", b"User", b"SystemdService", b"name", b"9", b"-", b"Name[de]", b"Exec[de"]
    ),
    st.sampled_from([b"My Key", b"X_Y", b"X.Y", b"", b"Exec[]", b"[", b"User [de]", "ü".encode()]),
)
GROUPS = st.one_of(
    st.sampled_from([b"[D-BUS Service]", b"[Other]", b"[D-BUS service]", b"[ ]", b"[!^~]"]),
    st.sampled_from(
        [b"[D-BUS Service] ", b"[]", b"[", b"[a]b]", b"[a[b]", b"[x\ty]", "[Ä]".encode()]
    ),
)
BLANKS = st.sampled_from([b"", b"", b" ", b"\t", b" \t\f", b"\x0b", b"\f", "\u2028".encode()])
COMMENTS = st.sampled_from([b"#", b"# x", b"#[x", b" # x", b";x", b"# \xff", b"# \0", b"#\\q"])
NAMES = st.one_of(
    st.sampled_from([b"@", b"@.b", b"@-b", b"@_", b" @", b"@" + b".b" * 90, b"@." + b"b" * 255]),
    st.sampled_from(
        [b"@ ", b"\t@", b"@.", b".@", b"@..b", b"@.1", b":1.@", rb"@\s", rb"\s@", rb"@\q"]
    ),
    st.sampled_from(
        [b"@=x", b"@/x", b"@#x", "@.ü".encode(), b"org.freedesktop.systemd1", b"a", b""]
    ),
)


@st.composite
def exec_lines(draw: st.DrawFn) -> bytes:
    program = draw(st.sampled_from([b"RUN ", b"RUN ", b"RUN ", b"RUN", b"'RUN'", b"/bin/x ", b""]))
    return (
        b"Exec"
        + draw(EQUALS)
        + program
        + draw(st.one_of(EXEC.map(escaped), EXEC.map(escaped), RAW))
    )


NAME_LINES = st.tuples(st.just(b"Name"), EQUALS, NAMES).map(b"".join)
LINES = st.one_of(
    exec_lines(),
    NAME_LINES,
    GROUPS,
    BLANKS,
    COMMENTS,
    st.tuples(KEYS, EQUALS, st.one_of(RAW, st.binary(max_size=4))).map(b"".join),
    st.binary(max_size=6),
)
# Each line's own: files are edited on more than one system.
ENDS = st.sampled_from([b"\n"] * 8 + [b"\r\n"] * 4 + [b"\r", b"\n\r", b"\n\n", b""])
GARBAGE = st.one_of(
    st.sampled_from(
        [b"", b"\0", b"\r", b"\n", b"\\", b"[", b"]", b"=", b"#", b" ", b"\xef\xbb\xbf"]
    ),
    st.sampled_from(
        [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
    ),
    st.binary(max_size=2),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A descriptor: a sound one with an Exec, most often; lines more; and bytes changed."""
    lines = draw(
        st.sampled_from([[b"[D-BUS Service]", b"Name=@"]] * 6 + [[b"[D-BUS Service]"], []])
    )
    lines = [*lines, *draw(st.lists(exec_lines(), max_size=1))]
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        lines.insert(draw(st.integers(0, len(lines))), draw(LINES))
    one_end = draw(ENDS)
    ends = draw(st.sampled_from([st.just(one_end), st.just(b"\n"), ENDS]))
    data = b"".join(line + draw(ends) for line in lines)
    data = draw(st.sampled_from([b""] * 20 + [b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"#\n"])) + data
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(GARBAGE) + data[start + draw(st.integers(0, 2)) :]
    return data


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def bus(directory: Path) -> Iterator[Reference]:
    with reference(service_directory(directory)) as bus:
        yield bus


@pytest.mark.timeout(300)
@settings(
    max_examples=FILES or 1000,
    derandomize=not FILES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(files())
def test_file_is_read_as_by_the_reference(directory: Path, bus: Reference, template: bytes) -> None:
    recorder = write_recorder(directory / "recorder")
    data = template.replace(b"@", b"org.example.F").replace(b"RUN", bytes(recorder))
    (directory / "x.service").write_bytes(data)
    bus.call("ReloadConfig")
    reading = explain(data)
    theirs = reading.reference
    # The daemon's own name is on its list in any case.
    assert bus.activatable() == ({theirs.name} if theirs else set()) - {DRIVER}
    assert agree(ours(data), reading)
    # Nothing is started but the recorder.
    if theirs and theirs.argv is None:
        assert bus.run(theirs.name) is None
    elif theirs and theirs.argv and theirs.argv[0] == str(recorder):
        assert bus.run(theirs.name) == theirs.argv[1:]
