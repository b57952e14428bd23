"""The examples of README.md and its pages, run: with the wheel, in empty directories."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from broker.cli.verbs import cli
from tests.integration import buses

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.integration.buses import Installation

ROOT = Path(__file__).parent.parent.parent
DOC = ROOT / "broker" / "doc"
PAGES = {page: page.read_text() for page in (ROOT / "README.md", *sorted(DOC.glob("*.md")))}
BLOCKS: list[tuple[str, str]] = [
    block
    for text in PAGES.values()
    for block in re.findall(r"^```(\w*)\n(.*?)^```\n", text, re.DOTALL | re.MULTILINE)
]

# In the place of what pip makes of its entry point.
PYTEST = '#!/bin/sh\nexec {python} -m pytest "$@"\n'


def block(language: str, containing: str) -> str:
    """The only block with this text; several pages may show the same one."""
    (found,) = {text for kind, text in BLOCKS if kind == language and containing in text}
    return found


def transcript(containing: str) -> tuple[str, str]:
    """What is typed in the block with this text, and what is answered; numbers as 0."""
    typed: list[str] = []
    answered: list[str] = []
    for line in block("", containing).replace("\\\n", "").splitlines():
        (typed if line.startswith("$ ") else answered).append(line.removeprefix("$ "))
    return "\n".join(typed), digits("\n".join(answered))


def digits(text: str) -> str:
    """A text whose PIDs, times and counts are all 0."""
    return re.sub(r"\d+", "0", text).strip()


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A user with an empty directory; beside it, the wheel with pytest alone in one environment."""

    user: Installation
    work: Path

    def write(self, name: str, text: str) -> None:
        """A file of the user's."""
        path = self.work / name
        path.write_text(text)
        if self.user.uid is not None:
            os.chown(path, self.user.uid, self.user.uid)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command in the directory, with the environment's programs in PATH."""
        bin_ = self.work.parent / "venv" / "bin"
        environ = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(self.work)}
        return self.user.run(argv, cwd=self.work, env=environ)

    def type(self, commands: str) -> subprocess.CompletedProcess[str]:
        """The commands of a page, given to a shell; both outputs in one."""
        return self.run("sh", "-c", f"exec 2>&1\n{commands}")


@pytest.fixture
def newcomer(ordinary: Installation, user: Installation) -> Iterator[Newcomer]:
    """The user of the tests, and an ordinary user."""
    directory = buses.short_directory(user)
    venv = directory / "venv"
    shutil.copytree(ordinary.command.parent.parent, venv, symlinks=True)
    (library,) = venv.glob("lib/python*/site-packages")
    for package in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        source = importlib.util.find_spec(package)
        assert source is not None
        assert source.origin is not None
        shutil.copytree(Path(source.origin).parent, library / package)
    module = importlib.util.find_spec("py")  # pytest's, a file
    assert module is not None
    assert module.origin is not None
    shutil.copy(module.origin, library)
    script = venv / "bin" / "pytest"
    script.write_text(PYTEST.format(python=venv / "bin" / "python"))
    script.chmod(0o755)
    # The empty directory that every place has for descriptors.
    yield Newcomer(user, directory / "services")
    buses.remove(directory)


def test_a_bus_for_one_command(newcomer: Newcomer) -> None:
    shutil.copytree(ROOT / "services.d", newcomer.work / "services.d")
    typed, answered = transcript('s "hello"')
    assert digits(newcomer.type(typed).stdout) == answered


def test_a_leak_of_the_command(newcomer: Newcomer) -> None:
    shutil.copytree(ROOT / "services.d", newcomer.work / "services.d")
    typed, answered = transcript("--fail-on-leak -- sh -c")
    assert digits(newcomer.type(typed).stdout) == answered


def test_the_list_and_the_exit_of_a_service(newcomer: Newcomer) -> None:
    shutil.copytree(ROOT / "services.d", newcomer.work / "services.d")
    typed, answered = transcript("$ dbus-activator list")
    demo = "org.activation.Demo"
    newcomer.write(
        "type.sh", f"dbus-activator start -q {demo}.Daemon {demo}.Echo {demo}.Exits\n{typed}\n"
    )
    options = ("--services", "services.d", "--output", "null")
    done = newcomer.run("dbus-activator", "run", *options, "--", "sh", "type.sh")
    # The width of a column is that of its PIDs.
    assert digits(done.stdout).split() == answered.split()


def test_the_pages_are_in_the_wheel(newcomer: Newcomer) -> None:
    (installed,) = (newcomer.work.parent / "venv").glob("lib/python*/site-packages/broker")
    assert {each.name for each in DOC.iterdir()} == {
        each.name for each in (installed / "doc").iterdir()
    }
    # It is for developers, who have a checkout.
    assert not (installed / "README.md").exists()


def test_links_lead_to_files() -> None:
    links = [
        (page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)#]+)\)", text)
    ]
    assert len(links) > len(PAGES)
    assert [link for page, link in links if not (page.parent / link).exists()] == []


def test_the_page_of_verbs_has_each_option() -> None:
    page = PAGES[DOC / "dbus-activator.md"]
    common = page.partition("## COMMON OPTIONS")[2].partition("\n## ")[0]
    common += page.partition("### Options of run and serve")[2].partition("\n##")[0]
    missing = {
        (name, option.opts[0])
        for name, command in each_command(cli, "")
        for option in command.params
        if isinstance(option, click.Option)
        if not any(
            f"`{option.opts[0]}{end}"
            in common + page.partition(f"### {name}\n")[2].split("\n##")[0]
            for end in ("`", " ")
        )
    }
    assert missing == set()


def each_command(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    """The verbs, and those of verbs, by their full names."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from each_command(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_the_ten_lines_pass(newcomer: Newcomer) -> None:
    test = block("python", "def test_greeter")
    newcomer.write("greeter.py", block("python", "class Greeter"))
    newcomer.write("test_greeter.py", test)
    assert len(test.split("\n\n\n")[1].splitlines()) <= 10
    typed, answered = transcript("1 passed in")
    done = newcomer.type(typed)
    assert (done.returncode, digits(done.stdout)) == (0, answered), done.stdout


def test_what_the_service_leaves_is_named(newcomer: Newcomer) -> None:
    leak = re.search(r"With `(subprocess\.Popen\(.*\))` in `main`", PAGES[DOC / "testing.md"])
    assert leak
    seconds = str(1_000_000 + os.getpid())  # nobody else's
    leaving = leak[1].replace("1000", seconds)
    # It is no leak before setsid has ended, and not called sleep before that was executed.
    look = f'subprocess.run(["pgrep", "-xf", "sleep {seconds}"], stdout=subprocess.DEVNULL)'
    left = f"    {leaving}.wait()\n    while {look}.returncode:\n        pass\n"
    greeter = block("python", "class Greeter").replace(
        "async def main():\n", f"async def main():\n{left}"
    )
    # And it daemonizes, which a test's own children would not be found through.
    daemonize = "import os, subprocess\nif os.fork(): os._exit(0)\nos.setsid()\n"
    newcomer.write("greeter.py", daemonize + greeter)
    test = block("python", "def test_greeter")
    newcomer.write("test_greeter.py", test)
    done = newcomer.type(transcript("1 process outlived its service")[0])
    assert done.returncode == 1, done.stdout
    assert "1 passed, 1 error" in done.stdout
    assert re.search(
        r"^1 process outlived its service:\n  org\.example\.Greeter"
        rf"  pid \d+ \(adopted\)  sleep {seconds}   age \d\.\ds$",
        done.stdout,
        re.MULTILINE,
    )


def test_a_service_in_c_with_meson(newcomer: Newcomer) -> None:
    newcomer.write("meson.build", block("meson", "project("))
    newcomer.write("org.example.Greeter.service.in", block("ini", "@greeter@"))
    newcomer.write("greeter.c", (Path(__file__).parent / "service.c").read_text())
    done = newcomer.type(transcript("meson test")[0])
    assert done.returncode == 0, done.stdout
    # What else is said, and where, is the version of meson's.
    assert re.search(r"^Ok: +1 *$", done.stdout, re.MULTILINE), done.stdout
    report = json.loads((newcomer.work / "build" / "greet.json").read_text())
    assert [each["name"] for each in report["services"]] == ["org.example.Greeter"]
    assert report["leaks"] == []
    # A leak fails meson's test too.
    descriptor = newcomer.work / "build" / "org.example.Greeter.service"
    descriptor.write_text(descriptor.read_text().replace("greeter org", "greeter -l org"))
    done = newcomer.run("meson", "test", "-C", "build", "--no-rebuild", "-v")
    # 99 is what it has for tests that went wrong themselves, as automake.
    assert re.search(r"^1/1 greet +ERROR .*exit status 99", done.stdout, re.MULTILINE), done.stdout
    assert "org.example.Greeter  pid " in done.stdout
