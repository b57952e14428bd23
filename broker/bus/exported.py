"""The base class for an interface of an exported object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker.bus.codec import Variant

if TYPE_CHECKING:
    from broker.bus.interface import InterfaceSpec

# For each type of private properties.
_EMPTY: Final[dict[str, Any]] = {"as": [], "s": ""}


class Interface(ABC):
    """One interface of one object."""

    __slots__ = ()
    spec: ClassVar[InterfaceSpec]
    # Properties that only privileged callers may read. Not in the XML: clients know no such
    # annotation.
    private: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def get(self, name: str) -> Any:
        """The value of a property that is defined in the XML, as dbus-next's types expect it."""

    @abstractmethod
    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """Carry out a method that is defined in the XML; arguments match its signature.

        Args:
            caller: the unique name of the calling connection.

        Raises:
            DBusError: the error reply for the caller.
            Broken: the session cannot go on. Any other exception is a bug of ours, and
                only this call fails.
        """

    def get_all(self, *, trusted: bool) -> dict[str, Variant]:
        """Every property; private ones are empty for an untrusted caller."""
        return {
            name: Variant(
                spec.signature,
                self.get(name) if trusted or name not in self.private else _EMPTY[spec.signature],
            )
            for name, spec in self.spec.properties.items()
        }
