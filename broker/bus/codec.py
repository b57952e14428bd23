"""dbus-next's messages to bytes and back.

dbus-next has had no release since 2021 and will have none. We use its message and variant
classes, and its checks of names and values, which are right. We do not use its connections:
they die on a full socket buffer, hang when the peer closes during authentication, leak
descriptors and sockets, and never answer a call after a disconnect. ``connection.py`` has
one on asyncio's transports. We do not use its reader either: it raises on an unknown header
field or message type, where the specification says "must be ignored", and it takes twice
the time of ``marshalling``, the reader of both connections.
"""

from __future__ import annotations

import typing
from functools import cached_property, lru_cache
from typing import Any, Final

from broker.bus import marshalling, wire
from broker.bus.driver import DRIVER, DRIVER_PATH
from broker.bus.frames import Head, MalformedMessageError, Splitter
from broker.bus.wire import FIELDS

# Python 3.15 has dropped a function of typing that dbus-next imports for its decorators.
# We do not use those, so any object will do.
if not hasattr(typing, "no_type_check_decorator"):
    typing.no_type_check_decorator = lambda decorator: decorator

from dbus_next import Message, MessageFlag, MessageType, SignatureTree, Variant
from dbus_next.validators import assert_bus_name_valid

__all__ = [
    "Head",
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

# The number of cached parsed signatures. Our own interfaces use some 40; peers may invent
# others, and dbus-next's own cache has no limit.
_MAX_SIGNATURES: Final = 512
# The bus fills in the sender.
_SENT: Final = [name for name in FIELDS if name not in ("sender", "unix_fds")]
# The body of a longer message is read on first use: megabytes of integers take
# seconds, and the receiver may refuse them for their signature alone.
SMALL: Final = 1024


class _LargeMessage(Message):  # type: ignore[misc] # dbus-next has no types
    """A message whose body is read on first use; it begins at ``start``."""

    def __init__(self, frame: bytes, start: int, fields: dict[str, Any]) -> None:
        super().__init__(**fields)
        del self.__dict__["body"]
        self.size = len(frame)
        self._frame = frame
        self._start = start

    @cached_property
    def body(self) -> list[Any]:
        """The arguments; raises MalformedMessageError."""
        return wire.body(self._frame, self._start, self.signature, _variant)


def size(message: Message) -> int:
    """An upper bound of the memory that a received message takes, in bytes."""
    return message.size if isinstance(message, _LargeMessage) else SMALL


def encode(message: Message) -> bytes:
    """The bytes of a message whose serial is set; file descriptors travel beside them.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: its body does not match its signature.
        LimitsExceeded: an array in it is too long for the protocol.
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
        None for a message type unknown to this version of the protocol: "Unknown types
        must be ignored".

    Raises:
        MalformedMessageError: the frame contradicts its own header. The body of a large
            message may raise it on first use. (A ``Head`` has no body.)
    """
    kind = frame[1]
    if not 1 <= kind <= 4:
        return None
    serial, fields, start = wire.header(frame)
    fields.pop("unix_fds", None)  # descriptors are the transport's
    signature = "" if isinstance(frame, Head) else fields.pop("signature", "")
    try:
        if "sender" in fields:
            assert_bus_name_valid(fields["sender"])  # an answer goes there
        fields |= {
            "message_type": MessageType(kind),
            "flags": MessageFlag(frame[2]),
            "serial": serial,
            "signature": _tree(signature),
        }
        if len(frame) > SMALL:
            return _LargeMessage(frame, start, fields)
        return Message(body=wire.body(frame, start, signature, _variant), **fields)
    except (ValueError, TypeError) as e:  # by dbus-next's checks
        raise MalformedMessageError(f"malformed message: {e}") from e


_tree = lru_cache(_MAX_SIGNATURES)(SignatureTree)


def _variant(signature: str, value: Any) -> Variant:
    return Variant(_tree(signature), value)


def signal(path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    """A signal; broadcast unless its destination is set."""
    return Message.new_signal(path, interface, member, signature, body)


def of_bus(member: str, signature: str = "", body: list[Any] | None = None) -> Message:
    """A call of one of the bus's own methods."""
    return Message(DRIVER, DRIVER_PATH, DRIVER, member, signature=signature, body=body or [])
