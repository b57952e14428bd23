"""What an ordinary user can execute and read: the tests' own places may be private.

Root's ``python3`` may be one of his own (pyenv, uv, conda), and the checkout may lie in
his home. Neither can be opened to others, nor can everybody mount (a container's root
may not): so other users get the system's interpreter, and a copy.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
# Where a distribution's own is. Not PATH, which may begin with a private place.
_SYSTEM: Final = ("/usr/local/bin", "/usr/bin", "/bin")
# ctypes, since a library may be private where the program is not.
_CHECK: Final = "import ctypes, sys, venv; sys.exit(sys.version_info < (3, 11))"


@functools.cache
def python(uid: int) -> str:
    """The running interpreter if this user can execute it, else the system's.

    Raises:
        RuntimeError: there is none, or none as new as is needed.
    """
    # Not our environment's, which is a link in a place that may be private itself.
    candidates = [os.path.realpath(sys.executable), *(f"{each}/python3" for each in _SYSTEM)]
    for candidate in candidates:
        if _can_execute(uid, candidate):
            return candidate
    raise RuntimeError(f"uid {uid} can execute no Python 3.11 or newer of {', '.join(candidates)}")


def _can_execute(uid: int, candidate: str) -> bool:
    try:
        done = subprocess.run(
            [candidate, "-I", "-c", _CHECK],
            check=False,
            capture_output=True,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
        )
    except OSError:
        return False
    return done.returncode == 0


@functools.cache
def sources() -> Path:
    """The package and its tests where everybody can read them, until ``remove_sources``."""
    directory = Path(tempfile.mkdtemp(prefix="dat-sources-", dir="/tmp"))
    directory.chmod(0o755)
    for name in ("broker", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    return directory


def remove_sources() -> None:
    """At the end of the tests."""
    if sources.cache_info().currsize:
        shutil.rmtree(sources())
        sources.cache_clear()
