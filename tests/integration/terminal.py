"""A real terminal of any width, with a program in it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import termios
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from tests.integration.buses import Installation

PATIENCE = 40.0


class Terminal:
    """A program on a terminal of its own, to be entered; ends with it.

    Args:
        leads: the terminal controls the program's session, as a login's does.

    Attributes:
        shown: all that it has written so far.
    """

    def __init__(
        self,
        user: Installation,
        argv: Sequence[str | Path],
        columns: int,
        env: Mapping[str, str],
        *,
        leads: bool = False,
    ) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        if user.uid is not None:
            os.fchown(theirs, user.uid, -1)
        options: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        if leads:
            argv = ["setsid", "--ctty", *argv]  # which becomes the program
        self._process: subprocess.Popen[bytes] = user.popen(
            argv, env={"TERM": "xterm", **env}, start_new_session=not leads, **options
        )
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._ours >= 0:
            os.close(self._ours)

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    def hang_up(self) -> None:
        """Close it, as when the network is gone, or its window."""
        os.close(self._ours)
        self._ours = -1

    def wait(self) -> int:
        """Wait for the program, in the foreground or not; returns its exit status."""
        return self._process.wait(PATIENCE)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C sends to the program in the foreground."""
        self._process.send_signal(signal.SIGINT)

    def until(self, text: str) -> str:
        """Wait until a text is shown after what was shown before; returns what came with it."""
        start = len(self.shown)
        while text not in self.shown[start:]:
            assert self._read(), f"no {text!r} in {self.shown[start:]!r}"
        return self.shown[start:]

    def end(self) -> int:
        """Read to the end; returns the program's exit status."""
        while self._read():
            pass
        return self._process.wait()

    def _read(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        if not select.select([self._ours], [], [], deadline - time.monotonic())[0]:
            return False
        # EIO: nobody has the other end any more.
        with contextlib.suppress(OSError):
            data = os.read(self._ours, 65536)
            self.shown += data.decode().replace("\r\n", "\n")
            return bool(data)
        return False
