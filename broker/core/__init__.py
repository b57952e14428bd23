"""The rules: pure, without sockets, clocks or processes."""
