"""Quotes variables for a shell."""

from __future__ import annotations

from broker.core.printable import KEPT, printable

# The characters besides letters and digits that need no quotes.
_PLAIN = frozenset("_@%+=:,./^{}#-")
_SHORT = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


def assignment(name: str, value: str) -> str:
    r"""Returns ``NAME=value`` on one line, with the value quoted if a shell would change it.

    As ``systemctl show-environment``: ``$'…'`` with escapes in it, which bash, zsh, ksh and
    busybox read back (dash does not).
    """
    if not all(char.isalnum() or char in _PLAIN for char in value):
        value = f"$'{''.join(map(_escaped, value))}'"
    return f"{printable(name)}={value}"


def _escaped(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable() or char in KEPT:
        return char
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogatepass"))
