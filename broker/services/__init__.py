"""The services of a session: rules and processes brought together."""
