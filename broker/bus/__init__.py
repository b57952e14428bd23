"""The D-Bus connection: the only room that imports dbus-next."""
