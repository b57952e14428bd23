"""Parses decimal numbers in foreign text."""

from __future__ import annotations


def decimal(text: str, most: int) -> int | None:
    """The number written in ASCII digits; None for any other text, and above ``most``.

    ``str.isdigit`` alone accepts characters that ``int`` refuses (the superscript two), and
    ``int`` accepts other scripts' digits, signs, blanks and underscores, and refuses 4300 digits.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)):
        return None
    number = int(digits)
    return number if number <= most else None
