"""The user's runtime directory, by the XDG Base Directory Specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "XDG_RUNTIME_DIR"


def runtime_directory(environ: Mapping[str, str]) -> str:
    """The directory that the environment names; empty for none.

    "All paths set in these environment variables must be absolute. If an implementation
    encounters a relative path … it should consider the path invalid and ignore it."
    """
    directory = environ.get(VARIABLE, "")
    return directory if directory.startswith("/") else ""
