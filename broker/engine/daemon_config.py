"""The configuration file for dbus-daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.engine.base import Rules

_CONFIG: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>{kind}</type>
  <keep_umask/>
  {listen}
  <auth>EXTERNAL</auth>
  {services}
  {policy}
{limits}
  <!-- Held shut by the broker, until it has had a look itself: to open it may take a while. -->
  {gate}
</busconfig>
"""

_OPEN: Final = """\
<policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="root"/>
  </policy>"""

# Appended to a policy that forbids what it does not name: our own needs, and our
# interface, which checks its callers itself.
_OURS: Final = """\
<policy context="default">
    <allow send_destination="org.activation.Broker1"/>
  </policy>
  <policy user="{uid}">
    <allow own="org.freedesktop.systemd1"/>
    <allow own="org.activation.Broker1"/>
    <allow send_destination="org.freedesktop.DBus"
           send_interface="org.freedesktop.systemd1.Activator"/>
  </policy>"""


# The included file, which is empty.
GATE: Final = "<busconfig/>\n"


def text(rules: Rules, listen: str, services: str, limits: Mapping[str, int], gate: str) -> str:
    """The file.

    Args:
        listen: an address.
        services: the directory of descriptors.
        gate: a file that is opened whenever this one is read, and need not exist.
    """
    each = (f'  <limit name="{name}">{value}</limit>' for name, value in limits.items())
    return _CONFIG.format(
        kind=rules.kind,
        policy=policy(rules),
        listen=_element("listen", listen),
        services=_element("servicedir", services),
        limits="\n".join(each),
        gate=_element("include", gate, ignore_missing="yes"),
    )


def policy(rules: Rules) -> str:
    """Its policy: the given one plus our own needs, or one that allows everything."""
    if not rules.policy and rules.kind == "session":
        return _OPEN
    return "\n  ".join([*rules.policy, _OURS.format(uid=os.getuid())])


def _element(tag: str, text: str, **attributes: str) -> str:
    element = ET.Element(tag, attributes)
    element.text = text
    return ET.tostring(element, "unicode")
