"""dbus-daemon's configuration files: elements used and refused, and nothing hangs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.catalog.busconfig import BusConfig, load
from broker.catalog.catalog import (
    Directory,
    standard_directories,
    standard_system_directories,
)
from broker.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRON = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1"}
OPEN = """<policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>"""


def read(directory: Path, text: str | bytes, name: str = "bus.conf") -> BusConfig:
    return load(str(write(directory, text, name)), ENVIRON)


def write(directory: Path, text: str | bytes, name: str = "bus.conf") -> Path:
    path = directory / name
    if isinstance(text, str):
        text = f"<busconfig>{text}</busconfig>".encode()
    path.write_bytes(text)
    return path


def refusal(directory: Path, text: str | bytes) -> str:
    """What a file is refused with, without its path."""
    with pytest.raises(BadConfiguration) as caught:
        read(directory, text)
    return str(caught.value).replace(f"{directory}/", "")


def test_every_element_for_the_starter_of_the_bus(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "<type>session</type><listen>unix:tmpdir=/tmp</listen>\n<listen> unix:path=/a </listen>"
        "<servicedir>/s</servicedir><servicedir>own</servicedir><standard_session_servicedirs/>"
        "<standard_system_servicedirs/><pidfile>/run/p</pidfile><fork/>"
        '<limit name="service_start_timeout">1500</limit><limit name="max_message_size">7</limit>'
        "<auth>EXTERNAL</auth><keep_umask/><syslog/><servicehelper>/h</servicehelper>"
        '<selinux><associate own="a" context="b"/></selinux><apparmor mode="enabled"/>'
        f"<allow_anonymous/>{OPEN}",
    )
    path = tmp_path / "bus.conf"
    assert found.kind == "session"
    assert found.listen == [(f"{path}:1", "unix:tmpdir=/tmp"), (f"{path}:2", "unix:path=/a")]
    assert found.directories == [
        Directory("/s", optional=True),
        Directory(str(tmp_path / "own"), optional=True),
        *standard_directories(ENVIRON),
        *standard_system_directories(),
    ]
    assert (found.pidfile, found.fork) == ("/run/p", True)
    assert found.limits == {"service_start_timeout": 1500, "max_message_size": 7}
    assert found.policy == [OPEN]
    assert (found.restricts, found.problems) == ("", [])


def test_every_limit_of_dbus_daemon_is_known(tmp_path: Path) -> None:
    """By the words in its program: also those of containers, which it takes and does not use."""
    program = Path(shutil.which("dbus-daemon") or "").read_bytes()
    words = set(re.findall(rb"\0((?:max|auth|pending|service|reply)_[a-z_]+)(?=\0)", program))
    names = sorted(words - {b"max_fds"})  # which is a rule's
    assert b"auth_timeout" in names
    text = "".join(f'<limit name="{name.decode()}">7</limit>' for name in names)
    assert read(tmp_path, text).problems == []


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == BusConfig()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<listen/>", "<listen> is empty"),
        ("<listen> </listen>", "<listen> is empty"),
        ("<typ>session</typ>", "unknown element <typ>"),
        ("<type>starter</type>", "unknown type of bus, 'starter'"),
        ("<user>messagebus</user>", "<user> 'messagebus' is not used: start it as that user"),
        ("<user>a&#10;b</user>", r"<user> 'a\nb' is not used: start it as that user"),
        ("<listen>unix:<b>path</b></listen>", "<b> in <listen> is not used"),
        ("<limit>7</limit>", "there is no limit ''"),
        ('<limit name="max_beer">7</limit>', "there is no limit 'max_beer'"),
        *(
            (f'<limit name="auth_timeout">{text}</limit>', f"auth_timeout: {reason}")
            for text, reason in (
                ("x", "not a number of a limit, 'x'"),
                ("-1", "not a number of a limit, '-1'"),
                ("²", "not a number of a limit, '²'"),
                ("١", "not a number of a limit, '١'"),
                ("9" * 5000, "not a number of a limit, '" + "9" * 80 + "'…"),
                ("0", "0 is not between 1 and 2147483647"),
                ("2147483648", "2147483648 is not between 1 and 2147483647"),
            )
        ),
    ],
)
def test_what_is_not_understood_costs_itself(tmp_path: Path, text: str, problem: str) -> None:
    found = read(tmp_path, f"\n{text}<fork/>")
    first, *_ = found.problems
    assert first == f"{tmp_path}/bus.conf:2: {problem}"
    assert found.fork
    assert found.limits == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "bus.conf:1: no element found"),
        (b"<busconfig>\n<fork>\n", "bus.conf:3: no element found"),
        (b"<busconfig>\n</fork>", "bus.conf:2: mismatched tag"),
        (b"<a><busconfig/></a>", "bus.conf:1: <a> is not <busconfig>"),
        (b"\xff\xfe<", "bus.conf:1: unclosed token"),
        (b"<?xml version='1.0' encoding='klingon'?><busconfig/>", "bus.conf:1: unknown encoding"),
        (
            b"<?xml version='1.0' encoding='big5'?><busconfig/>",
            "bus.conf:1: multi-byte encodings are not supported",
        ),
        (
            b"<!DOCTYPE b [<!ENTITY a 'x'>]>\n<busconfig/>",
            "bus.conf:1: entities are not allowed",
        ),
        (
            b"<!DOCTYPE b [<!ENTITY % a 'x'>]>\n<busconfig/>",
            "bus.conf:1: entities are not allowed",
        ),
        (
            b"<!DOCTYPE b SYSTEM 'x'>\n<busconfig>\n<listen>unix:path=&dir;/x</listen></busconfig>",
            "bus.conf:3: entities are not allowed",
        ),
        ("<policy/>", "bus.conf:1: <policy> needs one of context, user, group, at_console"),
        ('<policy user="a" group="b"/>', "bus.conf:1: <policy> needs one of"),
        ('<policy colour="red"/>', "bus.conf:1: <policy> needs one of"),
        ('<policy context="some"/>', "bus.conf:1: <policy> for an unknown context, 'some'"),
        ('<policy user="a"><deny/></policy>', "bus.conf:1: <deny> with no attribute"),
        (
            '<policy user="a">\n<deny sendto="x"/></policy>',
            "bus.conf:2: <deny> with an unknown attribute, sendto",
        ),
        ('<policy user="a"><denny own="x"/></policy>', "bus.conf:1: <denny> in a <policy>"),
        ('<policy user="a"><a><deny own="x"/></a></policy>', "bus.conf:1: <a> in a <policy>"),
    ],
)
def test_a_file_that_is_not_a_busconfig_is_refused(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    assert refusal(tmp_path, text).startswith(reason)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file")):
        with pytest.raises(BadConfiguration, match=f"^{path}: {reason}"):
            load(str(path), ENVIRON)


# -- what forbids something ------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ("", 2),  # dbus-daemon begins with all forbidden
        ('<allow own="*"/>', 2),
        ('<allow own="*"/><allow send_destination="*"/>', 2),
        ('<allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/>', 0),
        ('<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>', 0),
        ('<allow own="a.b"/><allow send_destination="*"/><allow eavesdrop="true"/>', 2),
        (
            '<allow own="*"/><allow send_destination="*" log="true" send_type="signal"/>',
            2,
        ),
        (f"</policy>{OPEN}\n\n\n\n<policy user='0'>\n<deny own='a.b'/>", 11),
        (f"</policy>{OPEN}<policy context='mandatory'>\n<deny send_type='signal'/>", 7),
        (f"</policy>{OPEN}<policy context='default'>\n<allow user='*'/>", 7),
        (f"</policy>{OPEN}<policy context='default'>\n<allow group='games'/>", 7),
        (f"</policy>{OPEN}<policy context='default'>\n<allow user='root'/>", 0),
        (f"</policy>{OPEN}<policy user='games'>\n<allow own='*'/>", 0),
    ],
)
def test_where_a_policy_restricts(tmp_path: Path, rules: str, line: int) -> None:
    found = read(tmp_path, f'\n<policy context="default">{rules}</policy>')
    assert found.restricts == (f"{tmp_path}/bus.conf:{line}" if line else "")


def test_what_one_user_is_allowed_opens_the_bus_to_nobody_else(tmp_path: Path) -> None:
    text = OPEN.replace('context="default"', 'user="games"')
    assert read(tmp_path, text).restricts == f"{tmp_path}/bus.conf:1"


def test_policies_are_handed_on_as_they_mean(tmp_path: Path) -> None:
    found = read(
        tmp_path, "<policy user='a'><deny send_path='&lt;&amp;&quot;&#39;&#10;'/></policy>"
    )
    inner = """<deny send_path="&lt;&amp;&quot;'&#10;"/>"""
    assert found.policy == [f'<policy user="a">\n    {inner}\n  </policy>']


# -- files of files -----------------------------------------------------------------


def test_includes_stand_where_they_are_included(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d", "<listen>unix:path=/2</listen>", "2.conf")
    write(tmp_path / "d", "<listen>unix:path=/1</listen><servicedir>x</servicedir>", "1.conf")
    write(tmp_path / "d", "<listen>unix:path=/no</listen>", "3.config")
    found = read(
        tmp_path,
        "<listen>unix:path=/0</listen><includedir>d</includedir><includedir>none</includedir>"
        '<include ignore_missing="yes">none</include>'
        '<include if_selinux_enabled="yes">none</include><listen>unix:path=/3</listen>',
    )
    assert [text for _, text in found.listen] == [f"unix:path=/{n}" for n in range(4)]
    assert found.directories == [Directory(str(tmp_path / "d" / "x"), optional=True)]
    assert found.listen[1][0] == f"{tmp_path}/d/1.conf:1"
    assert found.problems == []


def test_an_include_that_is_missing_is_named_with_its_place(tmp_path: Path) -> None:
    assert refusal(tmp_path, "\n<include>none</include>").startswith(
        "bus.conf:2: none: No such file"
    )


def test_a_directory_that_cannot_be_listed_costs_itself(tmp_path: Path) -> None:
    found = read(tmp_path, "<includedir>bus.conf</includedir>")
    assert found.problems == [f"{tmp_path}/bus.conf:1: {tmp_path}/bus.conf: Not a directory"]


@pytest.mark.parametrize("path", ["bus.conf", "d/../bus.conf", "d/link", "d/link2"])
def test_a_file_that_includes_itself(tmp_path: Path, path: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to("../bus.conf")
    (tmp_path / "d" / "link2").symlink_to(tmp_path / "bus.conf")
    assert refusal(tmp_path, f"<include>{path}</include>").endswith(f"{path} includes itself")


def test_many_files_that_include_each_other_end(tmp_path: Path) -> None:
    """Twenty files, of which each includes the next one twice, would be a million."""
    for number in range(20):
        each = f"<include>{number + 1}</include>"
        write(tmp_path, each + each, str(number))
    write(tmp_path, "", "20")
    assert "too many files" in refusal(tmp_path, "<include>0</include>")
    for number in range(100):
        write(tmp_path, f"<include>{number + 1}</include>", str(number))
    assert "too many files" in refusal(tmp_path, "<include>0</include>")


# -- anything ---------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("busconfig", "type", "listen", "servicedir", "pidfile", "fork", "limit", "policy"),
        *(
            "allow",
            "deny",
            "include",
            "includedir",
            "user",
            "selinux",
            "standard_session_servicedirs",
        ),
        *("x", "y:z"),
    ]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["name", "context", "user", "own", "send_type", "ignore_missing", "eavesdrop"]),
    st.sampled_from(["", "default", "*", "yes", "true", "auth_timeout", "&lt;", "\x7f", "ü\n"]),
    max_size=2,
)
TEXTS = st.one_of(
    st.sampled_from(
        ["session", "12", "bus.conf", ".", "/", "/dev/null", "&amp;", "&a;", "]]>", "\0"]
    ),
    st.text(max_size=5),
)


def _element(children: Sequence[str], name: str, attributes: dict[str, str]) -> str:
    words = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{words}>{''.join(children)}</{name}>"


def _elements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(_element, st.lists(inner, max_size=4), NAMES, ATTRIBUTES)


PARTS = st.recursive(TEXTS, _elements, max_leaves=12)
FILES = st.one_of(
    st.binary(max_size=60),
    st.lists(PARTS, max_size=6).map(
        lambda parts: f"<busconfig>{''.join(parts)}</busconfig>".encode()
    ),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None
)
@given(data=FILES, cut=st.integers(0, 400))
@example(b"<busconfig>" + b"<a>" * 20000, 10**6)
@example(b"<busconfig><include>/dev/null</include></busconfig>", 10**6)
@example(b"<busconfig><listen>" + b"x\n" * 200000 + b"</listen></busconfig>", 10**6)
def test_no_file_does_more_than_be_refused(tmp_path: Path, data: bytes, cut: int) -> None:
    """Whatever it is, it is a configuration or a refusal of one line with the file's name."""
    path = write(tmp_path, data[:cut])
    try:
        found = load(str(path), ENVIRON)
    except BadConfiguration as e:
        said = [str(e)]
    else:
        said = found.problems
        assert found.kind in ("", "session", "system")
        assert all(0 < limit < 2**31 for limit in found.limits.values())
        assert os.path.isabs(found.pidfile or "/")
    for each in said:
        # Or of one that it includes.
        assert each.startswith((str(path), "/dev/null"))
        assert each.isprintable()
