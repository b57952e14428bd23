"""The rules: pure code, without sockets, clocks or processes."""
