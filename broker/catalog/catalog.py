"""The catalog: every name that can be started, from the directories in their order."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.core.printable import printable
from broker.core.runtime import runtime_directory
from broker.errors import DescriptorError, NotReloaded

from .descriptor import Descriptor, PlaceholderError, not_provided, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_SUFFIX = ".service"
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of descriptors.

    ``strict`` is the rule of the transient directory: it must be private to this user, and a
    file in it must be named after the name that it provides. ``optional``: it need not exist.
    """

    path: str
    strict: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Catalog:
    """What was found: the descriptors by name, in the names' order, and what was wrong."""

    entries: Mapping[str, Descriptor]
    problems: tuple[DescriptorError, ...]


def standard_directories(environ: Mapping[str, str]) -> tuple[Directory, ...]:
    """Returns the directories of a session bus, the one that wins first, as in dbus-daemon.

    The variables are read by the XDG Base Directory Specification: an empty one counts as not
    set, and a path that is not absolute is ignored. (dbus-daemon takes an empty one as no
    directory, looks up a relative path from where it was started, and has the home directory from
    the user database: a test with a HOME of its own would get the user's real services.)
    """
    home = environ.get("HOME", "")
    data_home = environ.get("XDG_DATA_HOME") or (home and f"{home}/.local/share")
    data_dirs = environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    bases = [
        runtime_directory(environ),
        data_home,
        *data_dirs.split(":"),
        # Where distributions put their files, whatever XDG_DATA_DIRS says: dbus-daemon always
        # adds the directory that it was compiled for, dbus-broker does not.
        "/usr/share",
    ]
    found: dict[str, Directory] = {}
    for index, base in enumerate(bases):
        if base.startswith("/"):
            path = _services_in(base)
            found.setdefault(path, Directory(path, strict=index == 0, optional=True))
    return tuple(found.values())


def make_transient(directories: Iterable[Directory]) -> None:
    """Makes the transient directory, as dbus-daemon does: whoever writes there may count on it.

    In a runtime directory that is not there, or not ours, nothing is made.
    """
    for directory in directories:
        runtime = directory.path.removesuffix("/dbus-1/services")
        if not directory.strict or runtime == directory.path:
            continue
        with contextlib.suppress(OSError, DescriptorError):
            _check_private(runtime)
            for path in (f"{runtime}/dbus-1", directory.path):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)


def standard_system_directories() -> tuple[Directory, ...]:
    """Returns the directories of a system bus, the one that wins first, as dbus-broker 37."""
    bases = ("/etc", "/run", "/usr/local/share", "/usr/share", "/lib")
    return tuple(Directory(f"{base}/dbus-1/system-services", optional=True) for base in bases)


def load(directories: Sequence[Directory]) -> Catalog:
    """Reads all descriptors; see ``read_directory`` and ``combine``."""
    return combine([read_directory(directory) for directory in dict.fromkeys(directories)])


def read_directory(directory: Directory) -> list[Descriptor | DescriptorError]:
    """Reads a directory, in byte order. A broken file costs itself, and is one problem.

    Raises:
        NotReloaded: The system is short of something that the reading of any file needs: a
            catalog without the files that it could not read would be taken for a smaller one.
    """
    found = []
    for each in _descriptors(directory):
        cause = each.__cause__ if isinstance(each, DescriptorError) else None
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            raise NotReloaded(f"cannot read the descriptors: {each}") from cause
        found.append(each)
    return found


def combine(directories: Iterable[Sequence[Descriptor | DescriptorError]]) -> Catalog:
    """Makes a catalog of what the directories hold, in their order.

    The first directory with a name wins, and within one directory the first file in byte order.
    (dbus-daemon takes what readdir returns first, which differs from one machine to the next.)
    The files that lose are no problem: two packages may provide one name, and each start of a
    session would tell of it. The winner names them, and ``verify`` does.
    """
    entries: dict[str, Descriptor] = {}
    shadowed: dict[str, list[str]] = {}
    problems: list[DescriptorError] = []
    for directory in directories:
        for found in directory:
            if isinstance(found, DescriptorError):
                problems.append(found)
            elif found.name not in entries:
                entries[found.name] = found
            else:
                shadowed.setdefault(found.name, []).append(found.path)
    for name, paths in shadowed.items():
        entries[name] = replace(entries[name], shadowed=tuple(paths))
    return Catalog(MappingProxyType(dict(sorted(entries.items()))), tuple(problems))


def without(catalog: Catalog, taken: Mapping[str, str]) -> Catalog:
    """Leaves out names that are somebody's here, each with the reason; a problem each."""
    problems = [
        DescriptorError(printable(catalog.entries[name].path), 0, not_provided(name, why))
        for name, why in taken.items()
        if name in catalog.entries
    ]
    left = {name: each for name, each in catalog.entries.items() if name not in taken}
    return Catalog(MappingProxyType(left), (*catalog.problems, *problems))


def _services_in(base: str) -> str:
    # XDG_DATA_DIRS often names one directory twice, with a slash at its end and without. Not
    # normpath, though: `link/..` is not always where the link is.
    parts = [part for part in base.split("/") if part not in ("", ".")]
    return "/" + "/".join([*parts, "dbus-1", "services"])


def _descriptors(directory: Directory) -> Iterator[Descriptor | DescriptorError]:
    try:
        files = _files(directory)
    except DescriptorError as problem:
        yield problem
        return
    for file in files:
        found: Descriptor | DescriptorError
        try:
            found = _read_in(directory, file)
        except PlaceholderError:
            continue
        except DescriptorError as problem:
            found = problem
        yield found


def _files(directory: Directory) -> list[os.DirEntry[str]]:
    try:
        if directory.strict:
            _check_private(directory.path)
        with os.scandir(directory.path) as listing:
            # Unlike dbus-daemon, and like dbus-broker, no dotfiles: `.#x.service` is Emacs's lock.
            files = [f for f in listing if f.name.endswith(_SUFFIX) and f.name[0] != "."]
    except OSError as error:
        if directory.optional and isinstance(error, FileNotFoundError):
            return []
        reason = error.strerror or str(error)
        raise DescriptorError(printable(directory.path), 0, reason) from error
    # The names' bytes, since the order of their characters would be another one where a name is
    # no UTF-8 and holds surrogates.
    return sorted(files, key=lambda file: os.fsencode(file.name))


def _check_private(path: str) -> None:
    # As in dbus-daemon, against mistakes rather than malice: after `su` without a clean
    # environment XDG_RUNTIME_DIR is another user's, whose transient services are not for us.
    status = Path(path).stat()
    if status.st_uid != os.geteuid():
        reason = f"not used: belongs to uid {status.st_uid}, not to {os.geteuid()}"
        raise DescriptorError(printable(path), 0, reason)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DescriptorError(printable(path), 0, "not used: others can write to it")


def _read_in(directory: Directory, file: os.DirEntry[str]) -> Descriptor:
    descriptor = read(file.path)
    expected = descriptor.name + _SUFFIX
    if directory.strict and file.name != expected:
        reason = f"not used: in this directory it must be named {expected}"
        raise DescriptorError(printable(file.path), 0, reason)
    return descriptor
