"""Our own tests where only their user may enter: his Python, and his checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import others
from tests.integration import buses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.buses import Installation

# Both kinds of another user: one that a process becomes, and one that programs are started as.
FILES = ["tests/process/test_ancestry.py", "tests/integration/test_demo.py"]
CHOSEN = "(test_the_service_of_any_process_is_known and tag) or (test_ps_shows_the_tree and broker)"
LIBRARY = "import sysconfig; print(sysconfig.get_path('stdlib'))"


def interpreter(public: str, home: Path) -> Path:
    """One in a home: as little can be imported from there by others as executed."""
    asked = subprocess.run([public, "-c", LIBRARY], check=True, capture_output=True, text=True)
    library = home / "lib" / Path(asked.stdout.strip()).name
    library.parent.mkdir()
    library.symlink_to(asked.stdout.strip())
    python = home / "bin" / "python3"
    python.parent.mkdir()
    shutil.copy(os.path.realpath(public), python)
    if subprocess.run([python, "-c", "import ctypes"], check=False).returncode:
        pytest.skip("this interpreter does not run from another place")
    return python


@pytest.fixture
def home(user: Installation) -> Iterator[Path]:
    """An interpreter, a checkout and its environment, as README's second command has them."""
    path = buses.short_directory(user)
    path.chmod(0o700)
    python = interpreter(others.python(user.uid) if user.uid else sys.executable, path)
    checkout = path / "checkout"
    checkout.mkdir()
    for name in ("broker", "tests", "services.d"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(others.ROOT / name, checkout / name, ignore=ignored)
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(others.ROOT / name, checkout)
    venv = checkout / ".venv"
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
    (library,) = venv.glob("lib/python*/site-packages")
    large = shutil.ignore_patterns("mypy*", "ruff*", "*.pth", "broker", "__pycache__")
    source = sysconfig.get_path("purelib")
    shutil.copytree(source, library, ignore=large, dirs_exist_ok=True)
    (library / "checkout.pth").write_text(f"{checkout}\n")
    command = venv / "bin" / "dbus-activator"
    command.write_text(f"#!{venv}/bin/python\nfrom broker.cli import main\nmain()\n")
    command.chmod(0o755)
    if user.uid is not None:
        subprocess.run(["chown", "-R", f"{user.uid}:{user.uid}", path], check=True)
    yield path
    buses.end_started()
    buses.remove(path)


@pytest.mark.timeout(300)
def test_the_tests_pass_in_a_private_home(home: Path, user: Installation) -> None:
    checkout = home / "checkout"
    python = checkout / ".venv/bin/python"
    process = user.popen(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--long", "-k", CHOSEN, *FILES],
        cwd=checkout,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, _ = process.communicate(timeout=290)
    assert process.returncode == 0, said
    # Root's are run as the ordinary user, too.
    both = 2 if user.uid is None and os.geteuid() == 0 else 1
    assert re.search(rf"^{2 * both} passed, ", said, re.MULTILINE), said
