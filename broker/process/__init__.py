"""Processes: how they are started, marked, found, ended and reaped."""
