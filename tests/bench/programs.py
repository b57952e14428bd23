"""The C programs of the benchmark, and what must be installed for it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOURCES: Final = Path(__file__).parent
# Program to the Debian package that it is in.
_NEEDED: Final = {
    "cc": "gcc",
    "pkg-config": "pkg-config",
    "dbus-daemon": "dbus-daemon",
    "dbus-broker": "dbus-broker",
}


class BenchError(Exception):
    """There is no result; the text says why, and what to install where that helps."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the compiled programs."""

    service: Path
    client: Path


def check() -> None:
    """Look for everything that is needed before anything is started.

    Raises:
        BenchError: something is not there.
    """
    missing = [package for program, package in _NEEDED.items() if shutil.which(program) is None]
    if "pkg-config" not in missing and _pkg_config("--exists").returncode != 0:
        missing.append("libdbus-1-dev")
    if missing:
        raise BenchError(f"not installed; on Debian: apt install {' '.join(missing)}")


def build(directory: Path) -> Programs:
    """Compile the service and the client into a directory.

    Raises:
        BenchError: the compiler did not do it; its output is in the text.
    """
    flags = _pkg_config("--cflags", "--libs").stdout.split()
    return Programs(
        compiled(SOURCES / "service.c", directory, *flags),
        compiled(SOURCES / "client.c", directory, *flags),
    )


def compiled(source: Path, directory: Path, *flags: str) -> Path:
    """Compile one program into a directory; raises as ``build``."""
    target = directory / source.stem
    command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(target), str(source), *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"{source.name} does not compile:\n{done.stderr}")
    return target


def about() -> dict[str, Any]:
    """Where and with what is measured."""
    return {
        "uid": os.getuid(),
        "engines": [version("dbus-daemon"), version("dbus-broker")],
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def version(program: str) -> str:
    """Of an engine, such as "dbus-broker 33"."""
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return f"{program} {output.stdout.splitlines()[0].split()[-1]}"


def _pkg_config(*options: str) -> subprocess.CompletedProcess[str]:
    command = ["pkg-config", *options, "dbus-1"]
    return subprocess.run(command, check=False, capture_output=True, text=True)
