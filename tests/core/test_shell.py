"""Variables in one line each, as a shell reads them back."""

from __future__ import annotations

import subprocess

import pytest

from broker.core.shell import assignment

PLAIN = ["", "x", "a=b", "/usr/bin:/bin", "C.UTF-8", "ä"]
QUOTED = [
    " ",
    "a b",
    "\n",
    "a\nB=c",
    "\t",
    "it's",
    '"',
    "\\",
    "\\n",
    "$HOME",
    "~",
    "*",
    "`id`",
    "\x1b[31m",
    "\u202e",
    "!",
]


@pytest.mark.parametrize("value", PLAIN)
def test_a_plain_word_stays_plain(value: str) -> None:
    assert assignment("A", value) == f"A={value}"


def test_a_shell_reads_back_what_was_quoted() -> None:
    lines = [assignment(f"V{number}", value) for number, value in enumerate(QUOTED)]
    assert all(line.isprintable() and "=$'" in line for line in lines)
    names = " ".join(f'"$V{number}"' for number in range(len(QUOTED)))
    script = "\n".join([*lines, f"printf '%s\\0' {names}"])
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode().split("\0")[:-1] == QUOTED


def test_a_name_is_made_fit_to_be_shown() -> None:
    assert assignment("A\x1b", "x") == "A\\x1b=x"
