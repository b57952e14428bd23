"""An interface as its introspection XML file describes it.

The files are the source of truth for methods, properties and signals. Introspection
answers with their very text, so that annotations and argument names reach ``busctl``
and ``gdbus``. (dbus-next makes its XML from Python signatures and knows no annotations.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

EMITS: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """Signatures of a method's arguments and results."""

    arguments: str
    results: str


@dataclass(frozen=True, slots=True)
class PropertySpec:
    """Type of a property; ``emits`` is its annotation: true, invalidates, const or false."""

    signature: str
    emits: str


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """An interface as its XML describes it; ``xml`` is the ``<interface>`` element."""

    name: str
    methods: dict[str, MethodSpec]
    properties: dict[str, PropertySpec]
    signals: dict[str, str]
    xml: str


def load(directory: str, name: str) -> InterfaceSpec:
    """The interface with this name, from the file of that name in a directory of ours.

    Plain paths: importlib.resources would import 1 MB of archive formats.
    """
    # Only for files of this package, so the XML is trusted.
    element = ET.parse(os.path.join(directory, f"{name}.xml")).find("interface")  # noqa: S314
    assert element is not None, name
    element.tail = "\n"
    return InterfaceSpec(
        name=element.attrib["name"],
        methods={
            method.attrib["name"]: MethodSpec(
                _signature(method, "in", default="in"), _signature(method, "out", default="in")
            )
            for method in element.iter("method")
        },
        properties={
            each.attrib["name"]: PropertySpec(each.attrib["type"], _emits(each))
            for each in element.iter("property")
        },
        signals={
            each.attrib["name"]: _signature(each, "out", default="out")
            for each in element.iter("signal")
        },
        xml=ET.tostring(element, "unicode"),
    )


def _signature(element: ET.Element, direction: str, *, default: str) -> str:
    return "".join(
        arg.attrib["type"]
        for arg in element.iter("arg")
        if arg.attrib.get("direction", default) == direction
    )


def _emits(element: ET.Element) -> str:
    for annotation in element.iter("annotation"):
        if annotation.attrib["name"] == EMITS:
            return annotation.attrib["value"]
    return "true"
