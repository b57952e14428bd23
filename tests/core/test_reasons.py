"""The errors that a service's last line is appended to."""

from __future__ import annotations

from broker.core import reasons
from broker.core.exits import CLD_EXITED, CLD_KILLED, Exit
from broker.errors import LimitsExceeded, SpawnExecFailed

NAME = "org.test.One"


def test_what_it_did_itself_is_explained_by_it() -> None:
    for end, words in (
        (Exit(CLD_EXITED, 3), f"Process {NAME} exited with status 3"),
        (Exit(CLD_EXITED, 0), f"Process {NAME} exited with status 0 and left nobody"),
        (Exit(CLD_KILLED, 6), f"Process {NAME} received signal 6"),
    ):
        error, _ = reasons.ended(NAME, end)
        explained = reasons.explained(error, "no such file")
        assert type(explained) is type(error)
        assert str(explained) == f"{error}: no such file"
        assert str(explained).startswith(words)
    late = reasons.explained(reasons.timed_out(NAME, 5), "waiting for the network")
    assert str(late).endswith("timed out after 5 s: waiting for the network")


def test_what_others_did_is_not() -> None:
    for error in (
        SpawnExecFailed("x"),
        LimitsExceeded("x"),
        reasons.refused(NAME, 5, 10),
        reasons.stopped(NAME),
        reasons.closing(NAME),
    ):
        assert reasons.explained(error, "words") is error


def test_without_words_nothing_is_added() -> None:
    error = reasons.timed_out(NAME, 5)
    assert reasons.explained(error, "") is error
