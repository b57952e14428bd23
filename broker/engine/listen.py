"""The bus's listening socket: at an address of the user's, or passed to us."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.bus import address as addresses
from broker.bus.address import Address
from broker.core.printable import printable, quoted
from broker.core.runtime import VARIABLE, runtime_directory
from broker.errors import BadConfiguration, InvalidArgs, PermissionRefused
from broker.process import locked
from broker.process.locked import LockedDirectory, usable_umask

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# struct sockaddr_un: sun_path has 108 bytes, including the NUL.
_MAX_PATH: Final = 107
_BACKLOG: Final = 4096
# How often a new directory may be swept before we have locked it.
_TRIES: Final = 16
# The longest parent of a private directory that leaves room in a socket's path.
_MAX_PARENT: Final = 70
# Not the directories of old versions, which do not lock them: these had 12 digits.
_PRIVATE: Final = re.compile("dbus-activator-[0-9a-f]{16}")


@dataclass(slots=True)
class Listener:
    """An address to listen on, or a listening socket.

    Attributes:
        address: of one Unix socket, without guid.
        sock: passed by our starter; None if the engine makes its own.
    """

    address: Address
    sock: socket.socket | None = None
    _private: LockedDirectory | None = field(default=None, repr=False)
    # Device and inode of the socket's file.
    _file: tuple[int, int] | None = None

    def bind(self) -> socket.socket:
        """A listening socket; not blocking, as dbus-broker needs it.

        Raises:
            PermissionRefused, BadConfiguration: the address cannot be used.
        """
        if self.sock is not None:
            self.sock.setblocking(False)
            return self.sock
        name = self.address.socket_name()
        assert name is not None
        sock = socket.socket(socket.AF_UNIX)
        try:
            # Connecting needs write permission, which we might lack ourselves.
            with usable_umask():
                sock.bind(name)
            sock.listen(_BACKLOG)
        except OSError as e:
            sock.close()
            raise _refusal(self.address, e) from e
        sock.setblocking(False)
        self.bound()
        return sock

    def bound(self) -> None:
        """Note that the socket at the address is ours now."""
        name = self.address.socket_name()
        if self.sock is None and name and not name.startswith("\0"):
            self._file = file_id(name)

    @property
    def lock(self) -> list[int]:
        """The descriptor that locks our directory, if it was made for the socket."""
        return [self._private.fd] if self._private else []

    def close(self) -> None:
        """Remove the socket's file, and the directory if it was made for it."""
        name = self.address.socket_name()
        if name and self._file is not None and file_id(name) == self._file:
            # Not that of another broker, which may have the path by now.
            _unlink(name)
        if self._private:
            with contextlib.suppress(FileNotFoundError):
                self._private.remove()


def from_descriptor(fd: int) -> Listener:
    """The socket that LISTEN_FDS passed.

    Raises:
        BadConfiguration: it is not a listening Unix stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as e:
        raise BadConfiguration(f"descriptor {fd} of LISTEN_FDS: {e.strerror}") from e
    name = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    if (
        sock.family != socket.AF_UNIX
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        or not name
    ):
        sock.close()
        raise BadConfiguration(
            f"descriptor {fd} of LISTEN_FDS is not a listening Unix stream socket"
        )
    if isinstance(name, bytes):
        return Listener(Address("unix", {"abstract": os.fsdecode(name[1:])}), sock)
    return Listener(Address("unix", {"path": name}), sock)


def from_option(text: str, where: str = "--address") -> Listener:
    """A listener for ``--address``: unix:path=, unix:abstract=, unix:dir=, tmpdir= or runtime=yes.

    Args:
        where: the source of the text, for messages.

    Raises:
        BadConfiguration: the address has another form, or is in use.
        PermissionRefused: the address may not be used.
    """
    try:
        entries = addresses.parse(text)
    except InvalidArgs as e:
        raise BadConfiguration(f"{where}: {e}") from e
    if len(entries) > 1:
        raise BadConfiguration(f"{where}: a list of addresses is not supported: {text!r}")
    return _prepared(entries[0], where)


def default(environ: Mapping[str, str]) -> Listener:
    """The user bus's place in XDG_RUNTIME_DIR, else a private directory.

    Raises: as ``from_option``.
    """
    if directory := runtime_directory(environ):
        return _prepared(_in_runtime_directory(directory))
    if relative := environ.get(VARIABLE):
        log.warning("%s is ignored, as it is not an absolute path: %s", VARIABLE, quoted(relative))
    return private(environ)


def private(environ: Mapping[str, str]) -> Listener:
    """A socket in a directory of its own that only we can enter.

    Raises:
        PermissionRefused: no directory can be made.
    """
    directory = private_directory(environ)
    path = os.path.join(directory.path, "bus")
    return Listener(Address("unix", {"path": path}), None, directory)


def private_directory(environ: Mapping[str, str]) -> LockedDirectory:
    """A new directory that only we can enter, and that is ours as long as we live.

    In XDG_RUNTIME_DIR if that is ours or root's, else in /tmp: TMPDIR may be deep, and
    a socket's path has 107 bytes. (Not by tempfile, which takes 1 MB of memory for this
    one call.)

    Raises:
        PermissionRefused: neither can be written.
    """
    reason = "neither XDG_RUNTIME_DIR nor /tmp can be written"
    for parent in _parents(environ):
        if os.access(parent, os.W_OK | os.X_OK):
            for _ in range(_TRIES):
                path = os.path.join(parent, f"dbus-activator-{os.urandom(8).hex()}")
                try:
                    return LockedDirectory(path)
                except (FileNotFoundError, BlockingIOError) as e:
                    # Another broker swept it before our lock.
                    reason = f"{path}: {e.strerror}"
                except OSError as e:  # a full disk; the other place may be on another disk
                    reason = f"{path}: {e.strerror}"
                    break
    raise PermissionRefused(f"no directory for the bus: {reason}")


def sweep_directories(environ: Mapping[str, str]) -> None:
    """Remove the private directories of dead brokers."""
    for parent in _parents(environ):
        locked.sweep(parent, _PRIVATE)


def _parents(environ: Mapping[str, str]) -> list[str]:
    runtime = runtime_directory(environ)
    # After su or sudo it may belong to a user that cannot remove our leftovers. If it is
    # root's, it is shared by all, as in a container that uses /tmp for it.
    usable = runtime if _owner(runtime) in (0, os.geteuid()) else ""
    places = (usable, "/tmp")  # noqa: S108 - see LockedDirectory
    # dbus-daemon's configuration names it, and XML cannot hold bytes that are not text.
    return [
        each
        for each in places
        if each and each.isprintable() and len(os.fsencode(each)) < _MAX_PARENT
    ]


def file_id(path: str) -> tuple[int, int] | None:
    """The device and inode of a file; None if there is none."""
    with contextlib.suppress(OSError):
        about = os.lstat(path)
        return about.st_dev, about.st_ino
    return None


def _prepared(entry: Address, where: str = "--address") -> Listener:
    options = dict(entry.options)
    options.pop("guid", None)  # the engine makes its own
    if entry.transport != "unix" or len(options) != 1:
        raise BadConfiguration(f"{where}: cannot listen on {entry}: use unix:path=PATH")
    ((key, value),) = options.items()
    if key in ("dir", "tmpdir"):
        options = {"path": os.path.join(value, f"dbus-{os.urandom(5).hex()}")}
    elif key == "runtime" and value == "yes":
        runtime = runtime_directory(os.environ)
        if not runtime:
            raise BadConfiguration(f"{where}: unix:runtime=yes needs {VARIABLE}, an absolute path")
        options = dict(_in_runtime_directory(runtime).options)
    elif key not in ("path", "abstract"):
        raise BadConfiguration(f"{where}: cannot listen on {entry}: use unix:path=PATH")
    listener = Listener(Address("unix", options))
    _check_free(listener.address, where)
    return listener


def _in_runtime_directory(directory: str) -> Address:
    """The user bus's place in XDG_RUNTIME_DIR.

    Raises:
        PermissionRefused: it is another user's, whose programs would find our bus there, and
            be refused.
    """
    owner = _owner(directory)
    if owner not in (None, os.geteuid()):
        raise PermissionRefused(
            f"{VARIABLE} {printable(directory)} belongs to uid {owner}, and we are uid "
            f"{os.geteuid()}: unset it, as su and sudo do for a new session, or use --address"
        )
    return Address("unix", {"path": os.path.join(directory, "bus")})


def _owner(directory: str) -> int | None:
    """The uid of a directory's owner; None if unknown, as for a missing directory."""
    try:
        return os.stat(directory).st_uid
    except OSError:
        return None


def _check_free(address: Address, where: str) -> None:
    """Refuse an address that is in use; remove a dead socket.

    dbus-daemon would silently take the path from a living bus.
    """
    name = address.socket_name()
    assert name is not None
    if len(os.fsencode(name)) > _MAX_PATH:
        raise BadConfiguration(f"{where}: longer than {_MAX_PATH} bytes: {address}")
    probe = socket.socket(socket.AF_UNIX)
    probe.setblocking(False)  # a full queue means a hanging server: do not wait in it
    try:
        probe.connect(name)
    except ConnectionRefusedError:
        if not name.startswith("\0"):
            if not stat.S_ISSOCK(os.stat(name).st_mode):
                raise BadConfiguration(f"{where}: {address}: the file is not a socket") from None
            _unlink(name)
    except FileNotFoundError:
        _check_directory(address, name)
    except BlockingIOError:
        raise _refusal(address, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))) from None
    except OSError as e:
        raise _refusal(address, e) from e
    except ValueError as e:
        raise BadConfiguration(f"{where}: {address}: {e}") from e
    else:
        raise _refusal(address, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))
    finally:
        probe.close()


def _check_directory(address: Address, name: str) -> None:
    directory = os.path.dirname(name) or "."
    try:
        os.stat(directory)
    except OSError as e:
        raise _refusal(address, e) from e
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _refusal(address, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _refusal(address: Address, e: OSError) -> BadConfiguration | PermissionRefused:
    text = f"cannot listen on {address}: {e.strerror}"
    kind = PermissionRefused if isinstance(e, PermissionError) else BadConfiguration
    return kind(text)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
