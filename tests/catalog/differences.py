"""What dbus-daemon makes of a descriptor, told as differences from the catalog.

This is the only place that knows where the two differ on purpose, and why. It is
no second parser: where it names no reason, the catalog's own rooms say what the
reference must do, and it is held against that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.catalog.descriptor import GROUP, LARGEST, parse
from broker.catalog.exec_line import ExecSyntaxError, split
from broker.catalog.key_file import KeyFileError, read_group
from broker.catalog.names import RESERVED, is_bus_name
from broker.errors import DescriptorError

# -- files that one of the two refuses -----------------------------------------------

STRICT_NAME = "clients cannot ask for an invalid name; dbus-broker refuses it"
RESERVED_NAME = "it is somebody's: the bus's, or the broker's"
EARLY = "said when the file is read, not when somebody needs the service"
DOTFILE = "an editor's, or half written; as dbus-broker"
SYSTEMD = "as dbus-broker; activated by systemd there, never by the Exec that dbus-daemon wants"
LONE_CR = "dbus-daemon looks for blanks up to the \\n, but ends a line at the \\r; not worth a rule"

# -- command lines that are split into other words -------------------------------------

BLANK_AT_THE_END = "no program wants the empty argument; Debian's tracker descriptors end so"
COMMENT_IN_A_WORD = "cuts URLs; sh and dbus-broker take a comment at the start of a word only"
COMMENT_AT_THE_END = "a comment is no argument, not even an empty one"
EMPTY_COMMENT = "an empty comment is one, and no unclosed quote"
NEWLINE = "newlines are blanks; an empty argument for an empty line is of use to nobody"

# Those by which the reference finds more words, and no others.
EMPTY_WORDS = {BLANK_AT_THE_END, COMMENT_AT_THE_END, NEWLINE}


@dataclass(frozen=True)
class Verdict:
    """A file that is taken: its name, and its arguments; None: they are no list of words."""

    name: str
    argv: tuple[str, ...] | None


@dataclass(frozen=True)
class Reading:
    """What dbus-daemon makes of a file, or of a line, and why the catalog does not."""

    reference: Verdict | None
    reasons: frozenset[str]


def ours(data: bytes) -> Verdict | None:
    """What the catalog makes of a file; None: it refuses it."""
    try:
        found = parse("/x.service", data)
    except DescriptorError:
        return None
    return Verdict(found.name, found.argv)


def explain(data: bytes) -> Reading:
    """What the reference must make of a file, and every reason why the catalog may differ."""
    try:
        keys = read_group(data, GROUP)
    except KeyFileError:
        return Reading(None, frozenset())
    if keys is None or "Name" not in keys or len(data) > LARGEST:
        return Reading(None, frozenset())
    reasons: set[str] = set()
    name = keys["Name"].text
    if not is_bus_name(name):
        reasons.add(STRICT_NAME)
    elif name in RESERVED:
        reasons.add(RESERVED_NAME)
    if "Exec" not in keys:
        return Reading(None, frozenset([SYSTEMD]) if "SystemdService" in keys else frozenset())
    argv, why = explain_exec(keys["Exec"].text)
    try:
        if split(keys["Exec"].text) != argv:
            reasons |= why
    except ExecSyntaxError:
        reasons |= {EARLY, *why}
    if re.search(rb"(?:\A|[\r\n])[ \t\f]*\r[ \t\f\r]*[^ \t\f\r\n]", data):
        return Reading(None, frozenset([*reasons, LONE_CR]))
    return Reading(Verdict(name, argv), frozenset(reasons))


def agree(verdict: Verdict | None, reading: Reading) -> bool:
    """Whether the catalog makes of a file what the reference does, but for what has a reason."""
    if not reading.reasons or verdict == reading.reference:
        return verdict == reading.reference
    if verdict is None or reading.reference is None:
        return bool(reading.reasons - EMPTY_WORDS)
    theirs = reading.reference
    if reading.reasons <= EMPTY_WORDS:
        assert verdict.argv
        assert theirs.argv
        return [w for w in verdict.argv if w] == [w for w in theirs.argv if w]
    return verdict.name == theirs.name


# A word's part, or what stands between two; a quote or backslash that has no end is the rest.
_TOKEN = re.compile(
    r"""
      (?P<quoted>  ' [^']* ' | " (?: [^"\\]++ | \\. )*+ " )
    | (?P<joint>   \\\n )
    | (?P<escaped> \\. )
    | (?P<comment> \# [^\n]* \n? )
    | (?P<newline> \n )
    | (?P<blank>   [ \t] )
    | (?P<open>    ['"\\] .* )
    | (?P<plain>   . )
    """,
    re.DOTALL | re.VERBOSE,
)


def explain_exec(text: str) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    """The words that the reference must find in a command line, and why the catalog may not.

    For it a comment is nothing, even the newline at its end; each other newline ends a word,
    and so does the end of the text, be it an empty one.
    """
    reasons: set[str] = set()
    words: list[str] = []
    line, between = "", True  # of the line at hand; whether no word has begun
    why_empty = BLANK_AT_THE_END
    for token in [*_TOKEN.finditer(text), None]:
        kind = token.lastgroup if token else "end"
        if kind == "open":
            return None, frozenset(reasons)
        if token and token[0] == "#" and token.end() == len(text):
            return None, frozenset([*reasons, EMPTY_COMMENT])
        if kind == "comment":
            why_empty = COMMENT_AT_THE_END
            if not between:
                reasons.add(COMMENT_IN_A_WORD)
        elif kind in ("newline", "end"):
            words += split(f". {line}")[1:]
            if kind == "newline":
                why_empty = NEWLINE
            if between:
                words.append("")
                reasons.add(why_empty)
            line, between = "", True
        else:
            assert token
            line += token[0]
            between = kind == "blank" or (kind == "joint" and between)
    return tuple(words), frozenset(reasons)
