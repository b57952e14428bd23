"""What a soak found, for people."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.soak.probes import Memory
    from tests.soak.soak import Soak


def report(title: str, soak: Soak) -> str:
    """All of it as lines."""
    return "\n".join(_lines(title, soak))


def _lines(title: str, soak: Soak) -> Iterator[str]:
    record = soak.record
    rate = record.actions / soak.seconds if soak.seconds else 0.0
    yield f"== {title}: {record.actions} actions in {soak.seconds:.0f} s ({rate:.0f}/s)"
    counts = f"{soak.ledger.started} processes started, {soak.ledger.exited} ended"
    yield f"   {soak.rounds} rounds, {counts}"
    yield ""
    yield f"   {'ACTION':28}{'COUNT':>7}{'MEDIAN':>10}{'99 %':>10}{'MAX':>10}  OTHER ANSWERS"
    for action, outcomes in sorted(record.outcomes.items()):
        others = ", ".join(
            f"{name} {count}" for name, count in outcomes.most_common() if name != "ok"
        )
        times = _times([each * 1e3 for each in record.seconds[action]])
        yield f"   {action:28}{outcomes.total():7}{times}  {others}"
    activations = [each / 1e3 for each in soak.ledger.activations]
    yield f"   {'ActivationUSec':28}{len(activations):7}{_times(activations)}"
    yield ""
    yield f"   {'MEMORY':28}{'FIRST':>9}{'WARM':>9}{'END':>9}{'A MINUTE':>12}"
    yield _memory("broker", soak.broker)
    yield _memory("engine", soak.engine)
    yield f"   match rules: {soak.rules.calls} added or removed since the start"
    yield ""
    for check, problems in record.failures.items():
        yield f"   {'FAILED' if problems else 'ok    '}  {check}"
        for problem in problems:
            yield f"           {problem}"


def _times(milliseconds: Sequence[float]) -> str:
    if not milliseconds:
        return f"{'-':>10}" * 3
    many = len(milliseconds) > 1
    high = statistics.quantiles(milliseconds, n=100)[98] if many else milliseconds[0]
    figures = statistics.median(milliseconds), min(high, max(milliseconds)), max(milliseconds)
    return "".join(f"{each:7.1f} ms" for each in figures)


def _memory(name: str, memory: Memory) -> str:
    if not memory.samples:
        return f"   {name:28}{'-':>9}"
    first, last = memory.levels()
    sizes = [memory.samples[0][1], first, last]
    return (
        f"   {name:28}"
        + "".join(f"{each / 1e6:6.1f} MB" for each in sizes)
        + f"{memory.slope() / 1e3:+9.1f} kB"
    )
