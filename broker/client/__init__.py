"""The client of a running broker, for the command line and tests."""
