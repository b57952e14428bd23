"""A service that is a function in a test's own file.

A fresh interpreter runs the function's source text. Rejected: a fork, since it inherits
pytest's threads, locks, captured descriptors and connections; a pickle, since it imports the
test's module in the service, and runs its fixtures' imports there. So the function has only
its arguments, and its own imports.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import json
import textwrap
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def program(function: Callable[..., None], arguments: tuple[Any, ...]) -> str:
    """The text of a Python program that calls the function with the arguments.

    Raises:
        ValueError: the function has no source text or no name of its own, or uses an outside
            name, or an argument is not of JSON's types.
    """
    name = function.__name__
    if not name.isidentifier():
        raise ValueError(f"{function!r}: a service needs a function with a name, written by def")
    code = function.__code__
    needed = sorted({*code.co_freevars, *_globals(code)} - {name})
    if needed:
        raise ValueError(
            f"{name}() runs in an interpreter of its own, which has no "
            f"{' and no '.join(needed)}: import or define it inside of the function"
        )
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except OSError as e:
        raise ValueError(f"{name}(): {e}") from e
    try:
        carried = json.dumps(arguments)
    except TypeError as e:
        raise ValueError(f"{name}(): an argument cannot be passed: {e}") from e
    return (
        "from __future__ import annotations\n\n" if _has_lazy_annotations(function) else ""
    ) + f"import json as _json\n\n{source}\n{name}(*_json.loads({carried!r}))\n"


def _globals(code: types.CodeType) -> Iterator[str]:
    """The names that the code, nested code included, loads from its module.

    (inspect.getclosurevars takes attributes and imported modules for such names, too.)
    """
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL" and not hasattr(builtins, instruction.argval):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def _has_lazy_annotations(function: Callable[..., None]) -> bool:
    # The module's `from __future__ import annotations` counts: dbus-next's signatures are
    # annotations, and it reads them differently then.
    import __future__  # noqa: PLC0415 - for one flag

    return bool(function.__code__.co_flags & __future__.annotations.compiler_flag)
