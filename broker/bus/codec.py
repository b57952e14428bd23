"""Messages to bytes and back.

dbus-next has had no release since 2021 and will have none. What is kept of it
is its message class, its type system and its reading of values, which are right;
its connections are not (they die on a full socket buffer, hang when the peer
closes during authentication, leak descriptors and sockets, never answer a
call after a disconnect), so they are not used at all: ``connection.py`` has
one on asyncio's transports. Two mends are needed here:

- its header parser raises on a header field or message type that it does not
  know, where the specification says "must be ignored": headers are read here,
  with its reader for the values;
- its cache of parsed signatures grows with every signature that a peer makes
  up: it is emptied when it gets large.
"""

from __future__ import annotations

import struct
import typing
from functools import cached_property
from typing import Any, Final

from broker.bus import marshalling, wire
from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.bus.frames import FIXED_HEADER, MalformedMessageError, Splitter
from broker.bus.wire import FIELDS

# Python 3.15 has dropped a function of typing that dbus-next imports, for its own
# decorators, which are not used here: any object will do.
if not hasattr(typing, "no_type_check_decorator"):
    typing.no_type_check_decorator = lambda decorator: decorator

from dbus_next import Message, MessageFlag, MessageType, Variant
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.signature import SignatureTree
from dbus_next.validators import assert_bus_name_valid

__all__ = [
    "MalformedMessageError",
    "Message",
    "MessageFlag",
    "MessageType",
    "Splitter",
    "Variant",
    "decode",
    "encode",
    "of_bus",
    "signal",
    "size",
]

# Our own interfaces use some 40 signatures; the rest is what peers invent.
MAX_CACHED_SIGNATURES: Final = 512
# Those that can be read fast; what is behind file descriptors is the transport's.
_KNOWN: Final = {
    code: (name, type_.encode()) for name, (code, type_) in FIELDS.items() if name != "unix_fds"
}
# The bus says who the sender is.
_SENT: Final = [name for name in FIELDS if name not in ("sender", "unix_fds")]
# The body of a longer message is read when somebody asks for it: megabytes of
# integers take seconds, and whoever is sent them may refuse them for their signature.
SMALL: Final = 1024


class _LargeMessage(Message):  # type: ignore[misc] # dbus-next has no types
    """One whose body is not read yet."""

    def __init__(self, frame: bytes, reader: Any, fields: dict[str, Any]) -> None:
        super().__init__(**fields)
        del self.__dict__["body"]
        self.size = len(frame)
        self._reader = reader

    @cached_property
    def body(self) -> list[Any]:
        """The arguments; raises MalformedMessageError."""
        try:
            return [self._reader.read_argument(each) for each in self.signature_tree.types]
        except Exception as e:  # see decode
            raise MalformedMessageError(f"malformed message: {e}") from e
        finally:
            _limit_cache()


def size(message: Message) -> int:
    """How much of our memory a message that was read takes, in bytes and at most."""
    return message.size if isinstance(message, _LargeMessage) else SMALL


def encode(message: Message) -> bytes:
    """The bytes of a message whose serial is set; file descriptors travel beside them.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: its body does not have its signature.
    """
    fields = {name: value for name in _SENT if (value := getattr(message, name))}
    if message.unix_fds:
        fields["unix_fds"] = len(message.unix_fds)
    body = marshalling.body(message.signature, message.body)
    kind, flags = message.message_type.value, message.flags.value
    return wire.assemble(kind, flags, message.serial, fields, body)


def decode(frame: bytes) -> Message | None:
    """The message in one whole frame.

    Returns:
        None for a type of message that this version of the protocol does not
        have: "Unknown types must be ignored".

    Raises:
        MalformedMessageError: the frame contradicts its own header. Of a large
            message, the body may raise it when it is asked for.
    """
    kind = frame[1]
    if not 1 <= kind <= 4:
        return None
    reader = Unmarshaller(None)
    reader.buf = frame
    reader.endian = frame[0]
    try:
        serial, fields = _read_header(frame, reader)
        reader.align(8)
        tree = SignatureTree._get(fields.pop("signature", ""))  # noqa: SLF001
        fields |= {
            "message_type": MessageType(kind),
            "flags": MessageFlag(frame[2]),
            "serial": serial,
            "signature": tree,
        }
        if len(frame) > SMALL:
            return _LargeMessage(frame, reader, fields)
        body = [reader.read_argument(each) for each in tree.types]
        return Message(body=body, **fields)
    # Its reader and its checks raise much on hostile bytes, also a plain Exception
    # (a dictionary's entry in a variant) and AttributeError (past the end, where
    # it looks for a stream).
    except Exception as e:
        raise MalformedMessageError(f"malformed message: {e}") from e
    finally:
        _limit_cache()


def _limit_cache() -> None:
    if len(SignatureTree._cache) > MAX_CACHED_SIGNATURES:  # noqa: SLF001
        SignatureTree._cache.clear()  # noqa: SLF001


def _read_header(frame: bytes, reader: Any) -> tuple[int, dict[str, Any]]:
    """The serial and the known fields, of which ``Message`` checks the names but one.

    Known fields are read here, with a third of the time that the reader takes for
    them: an activation waits for this. The reader is left where the fields end.
    """
    order = "<" if frame[0] == ord("l") else ">"
    serial, length = struct.unpack_from(f"{order}II", frame, 8)
    if not serial:
        raise ValueError("its serial is zero")
    fields: dict[str, Any] = {}
    at, end = FIXED_HEADER, FIXED_HEADER + length
    while at < end:
        at = at + 7 & ~7
        if frame[at] not in _KNOWN:
            reader.offset = at
            reader.read_argument(SignatureTree._get("(yv)").types[0])  # noqa: SLF001
            at = reader.offset
            continue
        name, expected = _KNOWN[frame[at]]
        if frame[at + 1 : at + 4] != b"\1" + expected + b"\0":
            raise ValueError(f"its {name} has another type than {expected.decode()}")
        at += 4
        if expected == b"g":
            size, start = frame[at], at + 1
        else:
            (size,), start = struct.unpack_from(f"{order}I", frame, at), at + 4
        if expected == b"u":
            fields[name], at = size, start
        else:
            # The NUL behind it is not counted.
            fields[name], at = frame[start : start + size].decode(), start + size + 1
    if at != end:
        raise ValueError("its header fields do not end where it says")
    reader.offset = end
    if "sender" in fields:
        assert_bus_name_valid(fields["sender"])  # an answer goes there
    return serial, fields


def signal(path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    """A signal; broadcast unless its destination is set."""
    return Message.new_signal(path, interface, member, signature, body)


def of_bus(member: str, signature: str = "", body: list[Any] | None = None) -> Message:
    """A call of one of the bus's own methods."""
    return Message(DRIVER, DRIVER_PATH, DRIVER, member, signature=signature, body=body or [])
