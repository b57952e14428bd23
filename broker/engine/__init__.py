"""The message bus underneath: a real one, started and driven by the broker."""
