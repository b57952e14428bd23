"""One session from beginning to end."""
