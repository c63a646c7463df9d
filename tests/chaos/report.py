"""Results for people: of a part, of a campaign, and the table of the documentation."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from .driver import Result

_BEGIN: Final = "<!-- results: written by the campaign -->"
_END: Final = "<!-- end of results -->"


@dataclass(frozen=True)
class Figure:
    """A time of recovery that is promised.

    Parameters
    ----------
    kinds, key
        Of which faults which time.
    most_s
        It must be below that.
    """

    what: str
    kinds: tuple[str, ...]
    key: str
    most_s: float


FIGURES: Final = (
    Figure(
        "the broker is killed or restarted: the next run has ended",
        ("kill broker", "restart broker"),
        "recovered_s",
        15,
    ),
    Figure("a worker is killed: another is at its step", ("kill worker",), "taken_s", 30),
    Figure("a gateway is killed: a client that asks the next one has lost", ("kill gateway",), "lost_s", 0.5),
)


def part(result: Result) -> str:
    """Tell of one part."""
    lines = [f"part {result.seed} of {result.commit}: {len(result.faults)} faults, {result.seconds:.0f} s"]
    lines.append(f"  {_counts(result.counts)}")
    lines += [f"  VIOLATION {one['rule']}: {one['what']} (task {one['task']})" for one in result.violations]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in sorted(counts.items()))


def campaign(parts: list[dict[str, Any]]) -> str:
    """Tell of all parts: faults by kind, how long it took to get over them, and what was broken."""
    return "\n".join(table(parts)) + "\n" + "\n".join(totals(parts))


def table(parts: list[dict[str, Any]]) -> list[str]:
    """Write a table in Markdown."""
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in parts:
        for fault in one["faults"]:
            rows[fault["kind"]].append(fault)
    lines = [
        "| fault | tries | process ready again, s | step of the worker ended, s | next run ended, s | client lost, s |",
        "|---|---|---|---|---|---|",
    ]
    for kind, faults in sorted(rows.items()):
        lines.append(
            f"| {kind} | {len(faults)} | {_times(faults, 'up_s')} | {_times(faults, 'step_s')} "
            f"| {_times(faults, 'recovered_s')} | {_times(faults, 'lost_s')} |"
        )
    return lines


def _times(faults: list[dict[str, Any]], key: str) -> str:
    times = [fault[key] for fault in faults if fault.get(key) is not None]
    return f"{median(times):.1f}, {max(times):.1f}" if times else "–"


def totals(parts: list[dict[str, Any]]) -> list[str]:
    """Write sums."""
    counts: Counter[str] = Counter()
    for one in parts:
        counts.update(one["counts"])
    faults = sum(len(one["faults"]) for one in parts)
    broken = Counter(violation["rule"] for one in parts for violation in one["violations"])
    commits = ", ".join(dict.fromkeys(one["commit"] for one in parts))
    seconds = sum(one["seconds"] for one in parts)
    lines = [f"{faults} faults in {len(parts)} parts and {seconds / 60:.0f} minutes, on {commits}; {_counts(counts)}."]
    lines.append(f"Violations: {_counts(broken) if broken else 'none'}.")
    return lines


def figures(parts: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Judge the times of recovery, the longest of each; gives lines, and how many are missed or were not seen."""
    lines, missed = ["| promised | seen, s | longest, s | below, s | |", "|---|---|---|---|---|"], 0
    for figure in FIGURES:
        faults = [fault for one in parts for fault in one["faults"] if fault["kind"] in figure.kinds]
        times = [fault[figure.key] for fault in faults if fault.get(figure.key) is not None]
        # what never came is there as None
        good = (
            bool(times) and max(times) < figure.most_s and not any(fault.get(figure.key, 0) is None for fault in faults)
        )
        missed += not good
        longest = f"{max(times):.1f}" if times else "–"
        lines.append(
            f"| {figure.what} | {len(times)} | {longest} | {figure.most_s:g} | {'kept' if good else 'MISSED'} |"
        )
    return lines, missed


def renew(path: Path, parts: list[dict[str, Any]], seed: str) -> None:
    """Write the results into a document, between its marks."""
    text = path.read_text()
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    lines = ["", f"Seed {seed}.", "", *table(parts), "", *totals(parts), ""]
    path.write_text(before + _BEGIN + "\n".join(lines) + _END + after)
