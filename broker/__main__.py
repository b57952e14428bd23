"""``python -m broker`` is the same as ``dbus-activator``."""

from broker.cli import main

main()
