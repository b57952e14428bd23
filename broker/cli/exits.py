"""Exits and signals in human-readable form."""

from __future__ import annotations

import signal

from broker.core.exits import CLD_DUMPED, CLD_EXITED


def signal_name(number: int) -> str:
    """The name of a signal, such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # A real-time signal, neither the first nor the last.
        return f"SIG{number}"


def exit_word(code: int, status: int) -> str:
    """An exit as a word: "-", a number, or a signal's name."""
    if code == 0:
        return "-"
    return str(status) if code == CLD_EXITED else signal_name(status)


def exit_words(code: int, status: int) -> str:
    """An exit in systemctl's format, such as ``code=killed, signal=SEGV``."""
    if code == 0:
        return "running"
    if code == CLD_EXITED:
        return f"code=exited, status={status}"
    word = "dumped" if code == CLD_DUMPED else "killed"
    return f"code={word}, signal={signal_name(status).removeprefix('SIG')}"
