"""Processes: starts, marks, finds, signals and reaps them."""
