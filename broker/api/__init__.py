"""The broker's D-Bus interface: the XML, and objects that show the core's state."""
