"""The catalog: every activatable name, from the directories in order of precedence."""

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

    ``strict`` is the rule of the transient directory: it must be private to this user, and each
    file must be named after its bus name. ``optional``: the directory need not exist.
    """

    path: str
    strict: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Catalog:
    """The result of a scan: the descriptors by name, sorted, and the problems."""

    entries: Mapping[str, Descriptor]
    problems: tuple[DescriptorError, ...]


def standard_directories(environ: Mapping[str, str]) -> tuple[Directory, ...]:
    """Returns the directories of a session bus, highest precedence first, as in dbus-daemon.

    The variables are read by the XDG Base Directory Specification: an empty one counts as not
    set, and a relative path is ignored. (dbus-daemon takes an empty one as no directory, resolves
    a relative path from its working directory, and takes the home directory from the user
    database: a test with a HOME of its own would get the user's real services.)
    """
    home = environ.get("HOME", "")
    data_home = environ.get("XDG_DATA_HOME") or (home and f"{home}/.local/share")
    data_dirs = environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    bases = [
        runtime_directory(environ),
        data_home,
        *data_dirs.split(":"),
        # The distribution's directory, regardless of XDG_DATA_DIRS: dbus-daemon always adds its
        # compiled-in directory, dbus-broker does not.
        "/usr/share",
    ]
    found: dict[str, Directory] = {}
    for index, base in enumerate(bases):
        if base.startswith("/"):
            path = _services_in(base)
            found.setdefault(path, Directory(path, strict=index == 0, optional=True))
    return tuple(found.values())


def make_transient(directories: Iterable[Directory]) -> None:
    """Makes the transient directory, as dbus-daemon does: programs rely on it to write there.

    Nothing is made if the runtime directory is missing or another user's.
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
    """Returns the directories of a system bus, highest precedence first, as in dbus-broker 37."""
    bases = ("/etc", "/run", "/usr/local/share", "/usr/share", "/lib")
    return tuple(Directory(f"{base}/dbus-1/system-services", optional=True) for base in bases)


def load(directories: Sequence[Directory]) -> Catalog:
    """Reads all descriptors; see ``read_directory`` and ``combine``."""
    return combine([read_directory(directory) for directory in dict.fromkeys(directories)])


def read_directory(directory: Directory) -> list[Descriptor | DescriptorError]:
    """Reads a directory, in byte order. A broken file is skipped, and is one problem.

    Raises:
        NotReloaded: The system is out of a resource that reading any file needs. A catalog
            without the unread files would look as if they had been removed.
    """
    found = []
    for each in _descriptors(directory):
        cause = each.__cause__ if isinstance(each, DescriptorError) else None
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            raise NotReloaded(f"cannot read the descriptors: {each}") from cause
        found.append(each)
    return found


def combine(directories: Iterable[Sequence[Descriptor | DescriptorError]]) -> Catalog:
    """Makes a catalog of the directories' content, in their order.

    The first directory with a name wins, and within one directory the first file in byte order.
    (dbus-daemon takes readdir's first, which differs from one machine to the next.)
    A shadowed file is not a problem: two packages may provide one name, and each start of a
    session would report it. The winner lists its shadowed files, and so does ``verify``.
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
    """Leaves out the names in ``taken``, which gives the reasons; each is a problem."""
    problems = [
        DescriptorError(printable(catalog.entries[name].path), 0, not_provided(name, why))
        for name, why in taken.items()
        if name in catalog.entries
    ]
    left = {name: each for name, each in catalog.entries.items() if name not in taken}
    return Catalog(MappingProxyType(left), (*catalog.problems, *problems))


def _services_in(base: str) -> str:
    # XDG_DATA_DIRS often lists one directory twice, with and without a trailing slash. Not
    # normpath, though: `link/..` need not be the directory of the link.
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
    # Sorted by bytes: a name that is not UTF-8 holds surrogates, which sort differently as
    # characters.
    return sorted(files, key=lambda file: os.fsencode(file.name))


def _check_private(path: str) -> None:
    # As in dbus-daemon, against mistakes rather than malice: after `su` without a clean
    # environment, XDG_RUNTIME_DIR and its transient services are another user's.
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
