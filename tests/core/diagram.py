"""The picture of a service's life in broker/README.md, from the table itself.

``python -m tests.core.diagram`` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from broker.core.service import TRANSITIONS

README: Final = Path(__file__).parent.parent.parent / "broker" / "README.md"
BEGIN: Final = "```mermaid\n"
END: Final = "```\n"


def lines() -> list[str]:
    """Mermaid's, one for each pair of states, with the events that lead from one to the other."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), row in TRANSITIONS.items():
        for to in row.to - {state}:
            arrows.setdefault((state.value[1], to.value[1]), []).append(event.__name__)
    return [
        "stateDiagram-v2",
        *(f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in sorted(arrows.items())),
    ]


def drawn() -> str:
    """The README with the picture as it is now."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{chr(10).join(lines())}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(drawn())
