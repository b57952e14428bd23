"""The interface says what it means, where its clients see it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.api import paths

# gdbus-codegen and busctl's users read it: see "org.gtk.GDBus.DocString" in gdbus-codegen(1).
DOCUMENTATION = "org.gtk.GDBus.DocString"
FILES = sorted(Path(paths.__file__).parent.glob("*.xml"))


@pytest.mark.parametrize("file", FILES, ids=[each.stem for each in FILES])
def test_every_part_of_an_interface_is_documented(file: Path) -> None:
    (interface,) = ET.parse(file).getroot()
    for part in interface.iter():
        if part.tag == "annotation":
            continue
        (text,) = (
            each.attrib["value"]
            for each in part.findall("annotation")
            if each.attrib["name"] == DOCUMENTATION
        )
        assert text.endswith("."), part.attrib["name"]
