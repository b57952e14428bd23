"""What a test author may get wrong: it is said at the line itself, in the author's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from broker.errors import RemoteError
from broker.testing import calls
from tests.testing.conftest import run

if TYPE_CHECKING:
    from broker.testing import Bus

NAME: Final = "org.example.Greeter"
DRIVER: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


@pytest.mark.parametrize("bus", ["dbus-daemon"], indirect=True)
def test_a_mistake_is_named_and_costs_the_bus_nothing(bus: Bus) -> None:
    for command, text in (
        ("python3 x", "exec is a list, one word each: ['python3', 'x'], not 'python3 x'"),
        (["python3", 5], "exec[1] is 5, not a string or a path"),
        ([], "exec is empty: it begins with the program"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            bus.add_service(NAME, exec=command)  # type: ignore[arg-type]
        assert str(caught.value) == text
    with pytest.raises(TypeError, match="GetNameOwner: argument 1 has the type 's', but 5 is not"):
        bus.call(*DRIVER, "GetNameOwner", "s", 5)
    # The bus would hang up on it.
    with pytest.raises(ValueError, match="'no/path' is not an object path"):
        bus.call(NAME, "no/path", NAME, "Greet")
    for asking in (
        lambda: bus.call(*DRIVER, "GetNameOwner", "s", "org.example.Nobody"),
        lambda: bus.service("org.example.Nobody"),
    ):
        with pytest.raises(RemoteError) as answer:
            asking()
        assert str(answer.value).startswith(f"{answer.value.name}: ")
    assert bus.call(*DRIVER, "NameHasOwner", "s", NAME) == [False]


@pytest.mark.parametrize(
    ("signature", "arguments", "text"),
    [
        ("s", (), "the signature 's' has 1 argument, the call 0"),
        ("", ("you",), "the signature '' has 0 arguments, the call 1"),
        # The signature forgotten: its place is taken by the argument.
        ("hello", (), "'hello', before the arguments, is not a D-Bus signature"),
        (5, (), "5, before the arguments, is not a D-Bus signature"),
        ("{sv}", ({},), "'{sv}', before the arguments, is not a D-Bus signature"),
        ("a{vs}", ({},), "'a{vs}', before the arguments, is not a D-Bus signature"),
        ("si", ("a", "b"), "argument 2 has the type 'i', but 'b' is not an integer from "),
        ("y", (256,), "256 is not an integer from 0 to 255"),
        ("i", (1.5,), "1.5 is not an integer"),
        ("b", ("yes",), "'yes' is not True or False"),
        ("d", ("1",), "'1' is not a number"),
        ("s", (b"x",), "b'x' is not a string"),
        ("s", ("a\0b",), "is not a string without NUL"),
        ("o", ("a/b",), "'a/b' is not an object path"),
        ("g", ("z",), "'z' is not a signature"),
        ("h", (0,), "descriptors cannot be sent"),
        # One string, not a list of its letters.
        ("as", ("abc",), "'abc' is not a list"),
        ("as", (["a", 5],), "argument 1 has the type 'as', but 5 in ['a', 5] is not a string"),
        ("ay", ("abc",), "'abc' is not bytes"),
        ("a{sv}", ({"a": 1},), "1 in {'a': 1} is not a pair of signature and value"),
        ("a{sv}", ({"a": ("u", -1)},), "-1 in {'a': ('u', -1)} is not an integer from 0 to 42949"),
        ("a{si}", ([],), "[] is not a dictionary"),
        ("(si)", (("a",),), "('a',) is not a tuple of that length"),
        ("v", (("ss", "a"),), "is not a pair of signature and value"),
    ],
)
def test_arguments_that_do_not_fit(signature: Any, arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        calls.check(NAME, "/", NAME, "Greet", signature, arguments)
    assert text in str(caught.value)
    assert str(caught.value).startswith("Greet: ")


def test_all_that_can_be_sent_passes() -> None:
    values = (1, True, "", "/", "a{sv}", [1], b"x", [b"x"], {"a": ("v", ("s", ""))}, ("", [1.5, 2]))
    calls.check(":1.7", "/a_/B9", NAME, "Greet", "ybsogaiayaaya{sv}(sad)", values)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("services='data'", "*dbus_activator_services: expected a list, not 'data'*"),
        ("environ=['A=1']", "*dbus_activator_environ: expected a dictionary, not*"),
        ("stop_timeout='5'", "*dbus_activator_stop_timeout: '5' is not a number of seconds*"),
    ],
)
def test_settings_of_the_wrong_kind(project: pytest.Pytester, marker: str, message: str) -> None:
    text = f"""
        import pytest

        @pytest.mark.dbus_activator({marker})
        def test_marked(dbus_activator): pass
    """
    result = run(project, text)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_an_interrupted_run_names_its_leaks_in_few_lines(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_leaks(dbus_activator):
            dbus_activator.add_faulty("org.example.One", leaves_child=True)
            dbus_activator.start("org.example.One")
            raise KeyboardInterrupt
        """
    )
    result = project.runpytest_subprocess("-q", "--dbus-activator-leak-grace=0")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*1 process outlived its service:",
            "  org.example.One  pid * (adopted)  *faulty.py org.example.One leaves_child*",
        ]
    )
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert len(result.outlines + result.errlines) < 15
