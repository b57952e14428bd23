"""What the broker says on the bus: the XML, and objects that read the core's state."""
