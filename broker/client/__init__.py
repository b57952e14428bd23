"""How the command line and tests talk to a running broker."""
