"""The engines: real message buses, started and driven by the broker."""
