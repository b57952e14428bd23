"""``python -m broker.demo`` is the same as ``dbus-activator-demo``."""

from broker.demo import main

main()
