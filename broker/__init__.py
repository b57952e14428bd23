"""A D-Bus activation broker: the parent of every service on a message bus."""

__all__ = ["__version__"]

__version__ = "0.1.0"
