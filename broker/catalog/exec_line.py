r"""The command line of a descriptor, split into words.

The rules are dbus-daemon's (``dbus-shell.c``, a part of the shell's): blanks, tabs and newlines
separate words; ``'…'`` is literal; in ``"…"`` a backslash is special only before ``$ ` " \`` and a
newline; outside of quotes it makes the next character literal, and is removed with a newline.
Nothing is expanded: ``$HOME``, ``~``, ``*``, ``;`` and ``|`` are plain characters.

Three differences from dbus-daemon 1.14 are on purpose:

- It turns a trailing blank into an empty last argument. Debian's tracker descriptors end in
  blanks, and no program wants that argument.
- It starts a comment at a ``#`` even within a word (``a#b`` is ``a``), which cuts URLs with a
  fragment. Here a comment starts at the beginning of a word only, as in sh and in dbus-broker.
- It makes an empty argument of each newline without a word before it. Here newlines are blanks.
"""

from __future__ import annotations

import re

# A blank includes the comment after it, with or without joints (backslash, newline) between them.
# So where a piece begins, a "#" is a word's only in `plain`.
_PIECE = re.compile(
    r"""
      (?P<blank>   [ \t\n] (?: \\\n )* (?: \# [^\n]* )? )
    | ' (?P<single> [^']* ) '
    | " (?P<double> (?: [^"\\]++ | \\. )*+ ) "
    | (?P<joint>   \\\n )
    | \\ (?P<escaped> . )
    | (?P<plain>   [^ \t\n'"\\]+ )
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPED_IN_DOUBLE = re.compile(r'\\([$`"\\\n])')

# The error where no piece matches, by the character there.
_UNFINISHED = {
    "'": "unclosed single quote",
    '"': "unclosed double quote",
    "\\": "nothing follows the backslash at the end",
}


class ExecSyntaxError(ValueError):
    """A command line that cannot be split; the text says why."""


def split(text: str) -> tuple[str, ...]:
    """Splits a command line into words, after the key file's own escapes are resolved.

    Raises:
        ExecSyntaxError: A quote is not closed, a backslash is last, there is a NUL or no word.
    """
    if "\0" in text:
        raise ExecSyntaxError("contains a NUL, which no argument can")
    text = " " + text  # so that a comment may be first
    words: list[str] = []
    # Those of the current word. An empty quotation is a piece too: no pieces, no word.
    pieces: list[str] = []
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ExecSyntaxError(_UNFINISHED[text[at]])
        at = piece.end()
        match piece.lastgroup:
            case "blank":
                if pieces:
                    words.append("".join(pieces))
                    pieces.clear()
            case "double":
                pieces.append(_ESCAPED_IN_DOUBLE.sub(r"\1", piece["double"]))
            case "single" | "escaped" | "plain" as kind:
                pieces.append(piece[kind])
            case _:  # a joint is not even an empty piece
                pass
    if pieces:
        words.append("".join(pieces))
    if not words:
        raise ExecSyntaxError("Exec is empty")
    return tuple(words)
