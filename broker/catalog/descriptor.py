"""A descriptor: the file with the command line for a bus name."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from broker.core.printable import printable, quoted
from broker.errors import DescriptorError

from .exec_line import ExecSyntaxError, split
from .key_file import KeyFileError, read_group
from .names import RESERVED, is_bus_name

GROUP = "D-BUS Service"
"""The group with a descriptor's keys."""

LARGEST = 128 * 1024
"""The maximum size of a file in bytes, as in dbus-daemon."""

# NONBLOCK: opening a FIFO would block the whole broker until a writer comes (dbus-daemon does hang
# there). NOCTTY: a terminal must not become ours. Symbolic links are followed on purpose:
# /etc/alternatives and Nix consist of them.
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class PlaceholderError(DescriptorError):
    """systemd's own file for ``org.freedesktop.systemd1``, whose Exec is ``/bin/false``.

    It reserves the name and starts nothing. Every system with systemd has it in the standard
    directories, so it is not worth a message.
    """


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The content of a descriptor file.

    ``path`` is for opening, so it may hold surrogates: pass it through ``printable`` for display.
    ``argv``, ``user`` and ``systemd_service`` are empty if their key is missing.
    (AssumedAppArmorLabel is for a bus that mediates with AppArmor, and not kept.)
    ``shadowed`` has the paths of unused files for the same bus name, best first: the catalog
    adds them.
    """

    path: str
    name: str
    argv: tuple[str, ...]
    user: str
    systemd_service: str
    shadowed: tuple[str, ...] = ()


def not_provided(name: str, why: str) -> str:
    """Returns the message for a reserved name that has a descriptor."""
    return f"{name} cannot be provided by a file: {why}"


def parse(path: str, data: bytes) -> Descriptor:
    """Reads a descriptor from a file's content; ``path`` is for its messages.

    Raises:
        DescriptorError: The file breaks the format, or could never start its name.
    """
    return _parse(path, data)[0]


def _parse(path: str, data: bytes) -> tuple[Descriptor, dict[str, int]]:
    where = printable(path)
    try:
        keys = read_group(data, GROUP)
    except KeyFileError as error:
        raise DescriptorError(where, error.line, error.reason) from error
    if keys is None:
        raise DescriptorError(where, 0, f"has no group [{GROUP}]")
    if "Name" not in keys:
        raise DescriptorError(where, 0, f"has no Name in [{GROUP}]")
    name = keys["Name"]
    # dbus-daemon lists any text as activatable. But no client can ask for an invalid name, and
    # dbus-broker refuses to add one.
    if not is_bus_name(name.text):
        raise DescriptorError(where, name.line, f"Name {quoted(name.text)} is not a valid bus name")
    argv: tuple[str, ...] = ()
    if "Exec" in keys:
        # A bad line voids the file, even one with SystemdService: its author made a mistake, and
        # would otherwise not learn of it.
        try:
            argv = split(keys["Exec"].text)
        except ExecSyntaxError as error:
            raise DescriptorError(where, keys["Exec"].line, str(error)) from error
    if name.text == "org.freedesktop.systemd1" and argv == ("/bin/false",):
        raise PlaceholderError(where, name.line, "it reserves the name, and starts nothing")
    if name.text in RESERVED:
        raise DescriptorError(where, name.line, not_provided(name.text, RESERVED[name.text]))
    user, systemd_service = (
        keys[key].text if key in keys else "" for key in ("User", "SystemdService")
    )
    # dbus-daemon always requires an Exec; dbus-broker and the specification do not.
    if not argv and not systemd_service:
        raise DescriptorError(where, 0, f"has neither Exec nor SystemdService in [{GROUP}]")
    lines = {key: value.line for key, value in keys.items()}
    return Descriptor(path, name.text, argv, user, systemd_service), lines


def read(path: str) -> Descriptor:
    """Reads a descriptor file; never blocks, even if it is not a regular file.

    Raises:
        DescriptorError: The file cannot be read, or ``parse`` refuses it.
    """
    return read_with_lines(path)[0]


def read_with_lines(path: str) -> tuple[Descriptor, dict[str, int]]:
    """Reads a descriptor file as ``read`` does; also returns the line of each key."""
    where = printable(path)
    try:
        fd = os.open(path, _OPEN_FLAGS)
        try:
            data = _content(fd, where)
        finally:
            os.close(fd)
    except OSError as error:
        # A socket cannot be opened, and "No such device or address" would not say why.
        if error.errno == errno.ENXIO:
            raise DescriptorError(where, 0, "is a socket, not a regular file") from error
        raise DescriptorError(where, 0, error.strerror or str(error)) from error
    return _parse(path, data)


def _content(fd: int, where: str) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise DescriptorError(where, 0, f"is {kind}, not a regular file")
    if status.st_size > LARGEST:
        raise DescriptorError(where, 0, f"{status.st_size} bytes are more than {LARGEST}")
    data = b""
    # Do not rely on st_size: the file may have grown since, and files in /proc have none.
    while chunk := os.read(fd, LARGEST + 1 - len(data)):
        data += chunk
    if len(data) > LARGEST:
        raise DescriptorError(where, 0, f"has more than {LARGEST} bytes")
    return data
