"""An interface of an object, as whoever exports the object makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker.bus.codec import Variant

if TYPE_CHECKING:
    from broker.bus.interface import InterfaceSpec

# Of the types that private properties have.
_EMPTY: Final[dict[str, Any]] = {"as": [], "s": ""}


class Interface(ABC):
    """One interface of one object."""

    __slots__ = ()
    spec: ClassVar[InterfaceSpec]
    # Properties that not everybody may read. Not in the XML: clients know no such annotation.
    private: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def get(self, name: str) -> Any:
        """The value of a property that the XML lists, as dbus-next's types want it."""

    @abstractmethod
    async def call(self, member: str, arguments: list[Any], caller: str) -> list[Any]:
        """Carry out a method that the XML lists; arguments have its signature.

        Args:
            caller: the unique name of the connection that calls.

        Raises:
            DBusError: what the caller is told.
            Broken: the session cannot go on. Anything else is a fault of ours, and costs
                the caller alone.
        """

    def get_all(self, *, trusted: bool) -> dict[str, Variant]:
        """Every property; those that are private are empty for who is not trusted."""
        return {
            name: Variant(
                spec.signature,
                self.get(name) if trusted or name not in self.private else _EMPTY[spec.signature],
            )
            for name, spec in self.spec.properties.items()
        }
