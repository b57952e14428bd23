"""The services of a session: applies the rules of ``core`` to processes and names."""
