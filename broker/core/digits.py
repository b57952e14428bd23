"""Numbers in text of others."""

from __future__ import annotations


def decimal(text: str, most: int) -> int | None:
    """The number that ASCII's digits write; None if it is none, or above ``most``.

    ``str.isdigit`` alone lets pass what ``int`` refuses (the superscript two), and ``int``
    takes other scripts' digits, signs, blanks and underscores, and refuses 4300 digits.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)):
        return None
    number = int(digits)
    return number if number <= most else None
