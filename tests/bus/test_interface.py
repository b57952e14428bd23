"""What is read from introspection XML."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from broker.bus import interface
from broker.bus.interface import MethodSpec, PropertySpec
from broker.bus.objects import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES

if TYPE_CHECKING:
    from pathlib import Path

    from broker.bus.interface import InterfaceSpec

XML = """\
<?xml version="1.0" encoding="UTF-8"?>
<node>
 <interface name="org.example.Test">
  <annotation name="org.example.Note" value="a &lt;b&gt; &amp; “c”"/>
  <method name="Nothing"/>
  <method name="Mixed">
   <arg name="first" type="s"/>
   <arg name="answer" type="a{sv}" direction="out"/>
   <arg name="second" type="(ut)" direction="in"/>
   <arg name="other" type="o" direction="out"/>
  </method>
  <property name="Plain" type="s" access="read"/>
  <property name="Constant" type="as" access="read">
   <annotation name="org.freedesktop.DBus.Deprecated" value="true"/>
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
  </property>
  <signal name="Bare"/>
  <signal name="Happened">
   <arg name="what" type="s"/>
   <arg name="how" type="a{sv}" direction="out"/>
  </signal>
 </interface>
 <node name="child"/>
</node>
"""


@pytest.fixture
def spec(tmp_path: Path) -> InterfaceSpec:
    (tmp_path / "org.example.Test.xml").write_text(XML, "utf-8")
    return interface.load(str(tmp_path), "org.example.Test")


def test_signatures_are_put_together_by_direction(spec: InterfaceSpec) -> None:
    assert spec.name == "org.example.Test"
    # Arguments of methods go in unless they say out, those of signals go out.
    assert spec.methods == {"Nothing": MethodSpec("", ""), "Mixed": MethodSpec("s(ut)", "a{sv}o")}
    assert spec.signals == {"Bare": "", "Happened": "sa{sv}"}


def test_what_a_property_emits_is_its_annotation(spec: InterfaceSpec) -> None:
    assert spec.properties == {
        "Plain": PropertySpec("s", "true"),
        "Constant": PropertySpec("as", "const"),
    }


def test_the_text_is_kept_with_annotations_and_names_of_arguments(spec: InterfaceSpec) -> None:
    loaded = ET.fromstring(spec.xml)
    original = ET.fromstring(XML).find("interface")
    assert original is not None
    original.tail = None
    assert ET.canonicalize(ET.tostring(loaded)) == ET.canonicalize(ET.tostring(original))


def test_the_standard_interfaces_are_those_of_the_specification() -> None:
    assert PEER.methods == {"Ping": MethodSpec("", ""), "GetMachineId": MethodSpec("", "s")}
    assert INTROSPECTABLE.methods == {"Introspect": MethodSpec("", "s")}
    assert PROPERTIES.methods == {
        "Get": MethodSpec("ss", "v"),
        "GetAll": MethodSpec("s", "a{sv}"),
        "Set": MethodSpec("ssv", ""),
    }
    assert PROPERTIES.signals == {"PropertiesChanged": "sa{sv}as"}
    assert OBJECT_MANAGER.methods == {"GetManagedObjects": MethodSpec("", "a{oa{sa{sv}}}")}
    assert OBJECT_MANAGER.signals == {
        "InterfacesAdded": "oa{sa{sv}}",
        "InterfacesRemoved": "oas",
    }
