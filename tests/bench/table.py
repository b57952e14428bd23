"""The results, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bench.buses import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping


def of(results: Mapping[str, Any]) -> str:
    """A table of what ``activation`` measured."""
    rounds = len(results["activation"][KINDS[0].key]["rounds_ns"])
    lines = [
        _heading(results["about"]),
        "",
        f"cold activation, {rounds} rounds: a call to an unowned name until its answer, in ms",
        f"{'':24}{'median':>8}{'quartiles':>16}{'95 %':>8}{'ratio':>8}{'95 % conf.':>14}  goal",
    ]
    for kind in KINDS:
        taken = results["activation"][kind.key]
        low, high = (each / 1e6 for each in taken["quartiles_ns"])
        line = (
            f"{kind.title:24}{taken['median_ns'] / 1e6:8.2f}{f'{low:.2f} - {high:.2f}':>16}"
            f"{taken['p95_ns'] / 1e6:8.2f}"
        )
        if kind.key in results["ratio"]:
            judged = results["ratio"][kind.key]
            low, high = judged["interval_95"]
            line += f"{judged['value']:8.2f}{f'{low:.2f} - {high:.2f}':>14}{_goal(judged)}"
        lines.append(line)
    lines += ["", "activations in a row after a quiet time: the first, the second …, medians in ms"]
    for kind in KINDS:
        row = "".join(f"{each / 1e6:8.2f}" for each in results["in_a_row"][kind.key])
        lines.append(f"{kind.title:24}{row}")
    count = next(iter(results["memory"].values()))["services"]
    lines += ["", f"resident memory of the broker with {count} services running, in MB"]
    for kind in KINDS:
        if kind.key in results["memory"]:
            judged = results["memory"][kind.key]
            lines.append(f"{kind.title:24}{judged['rss_mb']:8.2f}{'':46}{_goal(judged)}")
    lines += ["", "start until the address is printed, in ms"]
    for kind in KINDS:
        taken = results["startup"][kind.key]
        starts = taken["starts_s"]
        lines.append(
            f"{kind.title:24}{taken['median_s'] * 1e3:8.1f}"
            f"{f'{min(starts) * 1e3:.1f} - {max(starts) * 1e3:.1f}':>16}"
        )
    return "\n".join(lines)


def of_storm(results: Mapping[str, Any]) -> str:
    """A table of what ``storm`` measured."""
    lines = [_heading(results["about"])]
    for mode, how in (("stream", "one after the other"), ("burst", "released together")):
        lines += [
            "",
            f"{results['count']} orphans, {how}, {results['rounds']} rounds: exits per second",
            f"{'':28}{'median':>8}{'quartiles':>16}{'ratio':>8}{'95 % conf.':>14}",
        ]
        for title, taken in results[mode].items():
            low, high = taken["quartiles"]
            line = f"{title:28}{taken['median']:8.0f}{f'{low:.0f} - {high:.0f}':>16}"
            if "ratio" in taken:
                low, high = taken["interval_95"]
                line += f"{taken['ratio']:8.2f}{f'{low:.2f} - {high:.2f}':>14}"
            lines.append(line)
    lines += ["", "resident memory in MB, after a first storm and after the last"]
    for title, (before, after) in results["resident"].items():
        lines.append(f"{title:28}{before / 1e6:8.2f}{after / 1e6:16.2f}")
    return "\n".join(lines)


def of_ending(results: Mapping[str, Any]) -> str:
    """A table of what ``ending`` measured."""
    lines = [_heading(results["about"])]
    for kind, what in (("hop", "processes that fork and go"), ("sleep", "daemons")):
        lines += [
            "",
            f"{what}, {results['rounds']} rounds: from the order until none is left, in ms",
            f"{'':32}{'median':>8}{'quartiles':>16}{'95 %':>8}",
        ]
        for title, taken in results["trees"][kind].items():
            low, high = (each / 1e6 for each in taken["quartiles_ns"])
            lines.append(
                f"{title:32}{taken['median_ns'] / 1e6:8.1f}{f'{low:.1f} - {high:.1f}':>16}"
                f"{taken['p95_ns'] / 1e6:8.1f}"
            )
    return "\n".join(lines)


def of_listing(results: Mapping[str, Any]) -> str:
    """A table of what ``listing`` measured."""
    lines = [_heading(results["about"])]
    for title, found in results["buses"].items():
        lines += [
            "",
            f"{results['services']} services, {title}, {results['rounds']} rounds, in ms",
            f"{'':28}{'median':>8}{'quartiles':>16}",
        ]
        for program, taken in found["programs"].items():
            low, high = (each / 1e6 for each in taken["quartiles_ns"])
            lines.append(
                f"{program:28}{taken['median_ns'] / 1e6:8.1f}{f'{low:.1f} - {high:.1f}':>16}"
            )
        judged = found["ratio"]
        lines.append(f"list / (2 x busctl + python){judged['value']:8.2f}{'':14}{_goal(judged)}")
    return "\n".join(lines)


def _heading(about: Mapping[str, Any]) -> str:
    return (
        f"uid {about['uid']}, {', '.join(about['engines'])}, {about['kernel']}, "
        f"Python {about['python']}, {about['cpus']} CPUs, load {about['load']:.2f}"
    )


def _goal(judged: Mapping[str, Any]) -> str:
    return f"  <= {judged['goal']:.2f} {'met' if judged['met'] else 'missed'}"
