"""The report of the scoreboard of difference images: tables, plots, and which targets are met."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from quality_difference_fields import SN_BINS
from quality_difference_text import CASES_TEXT, CLOSING, FILTERS_TEXT, INTRODUCTION, POSITIONS_TEXT, TRAILS_TEXT

ENGINES = ("hotpants", "zogy", "sfft")
KINDS = {"transient": "field", "transient_g": "galaxies"}
FIELD_PIXELS = 2048**2
PIXELS_PER_DEG2 = 3600**2
BIAS_FROM_SN = 10.0
PULLS_TO_SN = 30.0
FAR_PULL = 5.0
TRAILS_FWHM = (0.0, 0.5, 1.0, 1.5, 2.0, 4.0)


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured."""

    engine: str
    text: str
    measured: str
    kept: bool

    def __str__(self) -> str:
        """Give one line."""
        return f"{self.engine}: {self.text}: {self.measured}" + ("" if self.kept else " (missed)")


class Results:
    """All rows, and what is pooled of them."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def of(self, engine: str, case: str | None = None) -> "Results":
        """Choose."""
        return Results([row for row in self.rows if row["engine"] == engine and case in {None, row["case"]}])

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in order."""
        return list(dict.fromkeys(row["case"] for row in self.rows))

    def column(self, name: str) -> np.ndarray:
        """Give one value for each transient."""
        return np.concatenate([np.array(row[name]) for row in self.rows]) if self.rows else np.array([])

    def mean(self, name: str) -> float:
        """Give the mean of a figure over the fields, weighted with their size."""
        known = [(row[name], row["size"] ** 2) for row in self.rows if row[name] is not None]
        if not known:
            return float("nan")
        values, weights = zip(*known, strict=True)
        return float(np.average(values, weights=weights))

    @property
    def false(self) -> float:
        """Give false candidates per 2048 x 2048 pixels."""
        return self.false_per_field("false")

    def false_per_field(self, name: str) -> float:
        """Give a count of candidates per 2048 x 2048 pixels."""
        return sum(row[name] for row in self.rows) * FIELD_PIXELS / max(sum(r["size"] ** 2 for r in self.rows), 1)

    def found(self, kind: str, low: float, high: float, by: str = "sn") -> tuple[int, int]:
        """Give how many of the transients of a bin were found, and how many there are."""
        which = (self.column("kind") == kind) & (self.column(by) >= low) & (self.column(by) < high)
        return int(self.column("found")[which].sum()), int(which.sum())

    def bias(self, kind: str) -> tuple[float, float, float]:
        """Give bias, its error and the scatter of the fluxes of bright transients; fractions."""
        sn = self.column("sn")
        which = (self.column("kind") == kind) & (sn >= BIAS_FROM_SN) & self.column("clean").astype(bool)
        which &= np.abs(self.column("pull")) < FAR_PULL
        if which.sum() < 3:
            return (float("nan"),) * 3
        ratio, weight = self.column("ratio")[which] - 1, sn[which] ** 2 / (1 + (0.02 * sn[which]) ** 2)
        mean = float(np.average(ratio, weights=weight))
        spread = float(np.sqrt(np.average((ratio - mean) ** 2, weights=weight)))
        return mean, float(spread * np.sqrt((weight**2).sum()) / weight.sum()), spread

    def pulls(self, kind: str) -> np.ndarray:
        """Give the pulls of forced photometry of faint transients."""
        which = (self.column("kind") == kind) & (self.column("sn") <= PULLS_TO_SN) & self.column("clean").astype(bool)
        return self.column("pull")[which]


def pull_figures(pulls: np.ndarray) -> tuple[float, float, float, float]:
    """Give the mean, its error, the width (half the middle 68 %), and the part beyond 5."""
    near = pulls[np.abs(pulls) < FAR_PULL]
    if near.size < 10:
        return (float("nan"),) * 4
    low, high = np.percentile(pulls, (15.865, 84.135))
    return float(near.mean()), float(near.std() / np.sqrt(near.size)), (high - low) / 2, 1 - near.size / pulls.size


def verdicts(results: Results, doubt_sigma: float = 0.0) -> list[Verdict]:
    """Compare with the targets.

    Parameters
    ----------
    doubt_sigma
        How many standard errors beyond a limit are still within it: few transients say little about a per cent.
    """
    engines = [engine for engine in ENGINES if results.of(engine).rows]
    return [one for engine in engines for one in _judge(engine, results.of(engine), doubt_sigma)]


def _judge(engine: str, own: Results, doubt_sigma: float) -> Iterator[Verdict]:
    for low, high, least in ((10, 1e9, 0.98), (7, 10, 0.9)):
        found, there = own.found("transient", low, high)
        sn = f"S/N {low} and more" if low == 10 else f"S/N {low} to {high:g}"
        share = found / max(there, 1)
        room = doubt_sigma * np.sqrt(least * (1 - least) / max(there, 1))
        yield Verdict(engine, f"completeness at {sn} ≥ {least:.0%}", f"{share:.1%} of {there}", share >= least - room)
    fields = sum(row["size"] ** 2 for row in own.rows) / FIELD_PIXELS
    most = 5 + doubt_sigma * np.sqrt(5 / fields)
    yield Verdict(engine, "false candidates per 2048² ≤ 5", f"{own.false:.1f}", own.false <= most)
    for kind, limit in (("transient", 0.02 if engine == "zogy" else 0.01), ("transient_g", 0.025)):
        bias, error, _ = own.bias(kind)
        text = f"{100 * bias:+.2f} ± {100 * error:.2f} %"
        yield Verdict(
            engine, f"bias of fluxes, {KINDS[kind]}, below {limit:.1%}", text, abs(bias) <= limit + doubt_sigma * error
        )
    for kind, name in KINDS.items():
        pulls = own.pulls(kind)
        mean, error, spread, _ = pull_figures(pulls)
        text = f"{mean:+.2f} ± {error:.2f}, width {spread:.2f}"
        room = doubt_sigma * spread / np.sqrt(max(pulls.size, 1))  # of a quantile's width
        good = abs(mean) < 0.1 + doubt_sigma * error and 0.9 - room <= spread <= 1.1 + room
        yield Verdict(engine, f"pulls, {name}, S/N ≤ 30: mean below 0.1, width 0.9-1.1", text, good)
    yield from _by_case(own, engine, "difference/noise off sources 0.95-1.05", "off", lambda v: 0.95 <= v <= 1.05)
    limit = 1.4 if engine == "hotpants" else 1.7
    yield from _by_case(own, engine, f"difference/noise on stars r < 16 below {limit}", "on", lambda v: v < limit)


def _by_case(own: Results, engine: str, text: str, name: str, good: Callable[[float], bool]) -> Iterator[Verdict]:
    """Judge a figure in each case."""
    values = {case: own.of(engine, case).mean(name) for case in own.cases}
    known = {case: value for case, value in values.items() if np.isfinite(value)}
    if not known:
        return
    bad = [f"{case} {value:.2f}" for case, value in known.items() if not good(value)]
    measured = f"{min(known.values()):.3f} to {max(known.values()):.3f}" + (f"; {', '.join(bad)}" if bad else "")
    yield Verdict(engine, text + ", each case", measured, not bad)


def write_report(results: Results, docs: Path) -> None:
    """Write `quality.md` and its plots."""
    engines = [engine for engine in ENGINES if results.of(engine).rows]
    fields = {(row["case"], row["size"], row["seed"]) for row in results.rows}
    injected = {kind: max(int((results.of(e).column("kind") == kind).sum()) for e in engines) for kind in KINDS}
    parts = [
        INTRODUCTION.format(
            fields=len(fields),
            area=sum(size**2 for _, size, _ in fields) / PIXELS_PER_DEG2,
            transients=injected["transient"],
            hosts=injected["transient_g"],
            each=", ".join(f"{engine} {len(results.of(engine).rows)}" for engine in engines),
        ),
        "## Targets\n",
        _table(
            ["engine", "target", "measured", ""],
            [[one.engine, one.text, one.measured, "met" if one.kept else "**missed**"] for one in verdicts(results)],
        ),
        "## Completeness\n",
        "Share that `find_candidates` found at its defaults within 3 pixels; how many were put in.\n",
        _completeness(results, engines),
        "![Completeness by signal to noise and by magnitude](img/quality-completeness.png)\n",
        TRAILS_TEXT,
        _trails(results, engines),
        *_filters(results, engines),
        "## Fluxes\n",
        _fluxes(results, engines),
        "![Pulls of forced photometry](img/quality-pulls.png)\n",
        POSITIONS_TEXT,
        _positions(results, engines),
        "## By kind of field\n",
        CASES_TEXT,
        *[_cases(results.of(engine), engine) for engine in engines],
        "![Difference over noise, false candidates and bias by kind of field](img/quality-cases.png)\n",
        CLOSING,
    ]
    (docs / "quality.md").write_text("\n".join(parts))
    (docs / "img").mkdir(exist_ok=True)
    _plot_completeness(results, engines, docs / "img" / "quality-completeness.png")
    _plot_pulls(results, engines, docs / "img" / "quality-pulls.png")
    _plot_cases(results, engines, docs / "img" / "quality-cases.png")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _completeness(results: Results, engines: list[str]) -> str:
    rows = []
    bins = list(pairwise(SN_BINS))
    for engine in engines:
        for kind, name in KINDS.items():
            cells = [results.of(engine).found(kind, low, high) for low, high in bins]
            rows.append([engine, name, *(f"{found / max(there, 1):.1%} of {there}" for found, there in cells)])
        own = results.of(engine)
        variables = (sum(row["variables"][number] for row in own.rows) for number in (0, 1))
        lost = own.column("lost_to_mask")[own.column("sn") >= BIAS_FROM_SN].mean()
        row = ["{} of {} variables".format(*variables), f"lost to masks: {lost:.1%} of S/N ≥ 10"]
        rows.append([engine, "others", *row, "", "", ""])
    return _table(["engine", "where", *(f"S/N {low:g} to {high:g}" for low, high in bins)], rows)


def _trails(results: Results, engines: list[str]) -> str:
    rows = []
    for engine in engines:
        own = results.of(engine)
        length = own.column("asteroids_fwhm")
        for which, false, name in (
            ("asteroids", own.false, "default"),
            ("asteroids_odd", own.false_per_field("false_odd"), "`filter_prefilter` off"),
        ):
            found = own.column(which)
            bins = [(length >= low) & (length < high) for low, high in pairwise(TRAILS_FWHM)]
            rows.append([engine, name, *(f"{int(found[b].sum())} of {int(b.sum())}" for b in bins), f"{false:.1f}"])
    head = [f"{low:g} to {high:g} FWHM" for low, high in pairwise(TRAILS_FWHM)]
    return _table(["engine", "search", *head, "false / 2048²"], rows)


def _filters(results: Results, engines: list[str]) -> list[str]:
    """Give what the filters of the search cost and win, in the fields where that was measured."""
    with_searches = Results([row for row in results.rows if "searches" in row])
    rows = []
    for engine in engines:
        own = with_searches.of(engine)
        names = list(own.rows[0]["searches"]) if own.rows else []
        for name in ("default", *names):
            tried = own if name == "default" else Results([row | row["searches"][name] for row in own.rows])
            bins = [(kind, low, high) for kind in KINDS for low, high in ((5, 7), (7, 10), (10, 1e9))]
            cells = [tried.found(*one) for one in bins]
            there = sum(row["variables"][1] for row in own.rows)
            changed = sum(np.ravel(row["variables"])[0] for row in tried.rows)
            shares = [f"{found / max(count, 1):.1%}" for found, count in cells]
            rows.append([engine, name, *shares, f"{changed} of {there}", f"{tried.false:.1f}"])
    if not rows:
        return []
    signs = ("5 to 7", "7 to 10", "≥ 10")
    head = ["engine", "search", *(f"{where}, S/N {sn}" for where in KINDS.values() for sn in signs)]
    fields = len({(row["case"], row["size"], row["seed"]) for row in with_searches.rows})
    return [FILTERS_TEXT.format(fields=fields), _table([*head, "variables", "false / 2048²"], rows)]


def _positions(results: Results, engines: list[str]) -> str:
    rows = []
    for engine in engines:
        own = Results([row for row in results.of(engine).rows if "position_sn" in row])
        if not own.rows:
            continue
        sn, pulls = own.column("position_sn"), (own.column("position_pull_x"), own.column("position_pull_y"))
        away = np.hypot(own.column("position_x"), own.column("position_y"))
        bins = [(sn >= low) & (sn < high) for low, high in pairwise(SN_BINS)]
        means = (1000 * np.median(own.column(f"position_{axis}")) for axis in "xy")
        width = np.mean([np.subtract(*np.percentile(pull, (84.135, 15.865))) / 2 for pull in pulls])
        cells = [f"{np.median(away[b]):.3f}" if b.any() else "–" for b in bins]
        rows.append([engine, *cells, ", ".join(f"{mean:+.1f}" for mean in means), f"{width:.2f}", str(sn.size)])
    head = ["engine", *(f"S/N {low:g} to {high:g}" for low, high in pairwise(SN_BINS))]
    return _table([*head, "median in x, y, 0.001 pixels", "width of pulls", "candidates"], rows)


def _fluxes(results: Results, engines: list[str]) -> str:
    rows = []
    for engine in engines:
        for kind, name in KINDS.items():
            own = results.of(engine)
            bias, error, spread = (100 * value for value in own.bias(kind))
            mean, mean_error, width, far = pull_figures(own.pulls(kind))
            rows.append(
                [
                    engine,
                    name,
                    f"{bias:+.2f} ± {error:.2f}",
                    f"{spread:.1f}",
                    f"{mean:+.3f} ± {mean_error:.3f}",
                    f"{width:.2f}",
                    f"{100 * far:.1f}",
                    str(own.pulls(kind).size),
                ]
            )
    head = ["engine", "where", "bias, %", "scatter, %", "mean pull", "width of pulls", "beyond 5 σ, %", "pulls of"]
    return _table(head, rows)


def _cases(own: Results, engine: str) -> str:
    rows = []
    for case in own.cases:
        one = own.of(engine, case)
        field, host = one.bias("transient"), one.bias("transient_g")
        found, there = one.found("transient", 10, 1e9)
        large = [row for row in one.rows if row["size"] == 2048]
        seconds = [row["processor_s"] * 1024**2 / row["size"] ** 2 for row in one.rows]
        rows.append(
            [
                case,
                f"{one.mean('off'):.3f}",
                f"{one.mean('on'):.2f}" if np.isfinite(one.mean("on")) else "–",
                f"{one.false:.1f}",
                f"{one.false * PIXELS_PER_DEG2 / FIELD_PIXELS:.0f}",
                f"{found / max(there, 1):.1%} of {there}",
                f"{100 * field[0]:+.2f} ± {100 * field[1]:.2f}",
                f"{100 * host[0]:+.2f} ± {100 * host[1]:.2f}",
                f"{100 * one.mean('scale'):+.2f}",
                f"{100 * one.mean('masked'):.1f}",
                f"{np.median(seconds):.1f}",
                f"{large[0]['processor_s']:.1f} s, {large[0]['mb']:.0f} MB" if large else "",
            ]
        )
    head = ["case", "off", "on", "false / 2048²", "false / deg²", "S/N ≥ 10", "bias, field, %", "bias, galaxies, %"]
    head += ["scale, %", "masked, %", "s / 1024²", "2048²"]
    return f"### {engine}\n\n" + _table(head, rows)


def _plot_completeness(results: Results, engines: list[str], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_sn, by_mag = figure.subplots(1, 2, sharey=True)
    for engine in engines:
        for kind, style in (("transient", "-"), ("transient_g", "--")):
            for axis, by, edges in (
                (by_sn, "sn", np.geomspace(5, 100, 10)),
                (by_mag, "mag", np.arange(15, 22.1, 0.5)),
            ):
                points = [
                    (0.5 * (low + high), found / there)
                    for low, high in pairwise(edges)
                    for found, there in [results.of(engine).found(kind, low, high, by)]
                    if there >= 10
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), style, marker=".", label=f"{engine}, {KINDS[kind]}")
    by_sn.set(xscale="log", xlabel="S/N of aperture photometry", ylabel="found", ylim=(0, 1.03))
    by_sn.set_xticks(SN_BINS, [f"{sn:g}" for sn in SN_BINS])
    by_sn.set_xticks([], minor=True)
    by_mag.set(xlabel="magnitude, all cases together")
    by_sn.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _plot_pulls(results: Results, engines: list[str], path: Path) -> None:
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    edges = np.linspace(-5, 5, 41)
    normal = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    for axis, engine in zip(figure.subplots(1, len(engines), sharey=True, squeeze=False)[0], engines, strict=True):
        for kind, name in KINDS.items():
            pulls = results.of(engine).pulls(kind)
            axis.hist(pulls, edges, density=True, histtype="step", label=f"{name}, {pulls.size}")
        axis.plot(edges, normal, "k:", lw=1)
        axis.set(title=engine, xlabel="(flux - truth) / error")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _plot_cases(results: Results, engines: list[str], path: Path) -> None:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    cases = results.cases
    quantities: list[tuple[str, Callable[[Results], float]]] = [
        ("sd(difference/noise) off sources", lambda one: one.mean("off")),
        ("the same on stars of r < 16", lambda one: one.mean("on")),
        ("false candidates per 2048²", lambda one: one.false),
        ("bias of transients, %", lambda one: 100 * one.bias("transient")[0]),
    ]
    for axis, (title, value) in zip(figure.subplots(2, 2, sharex=True).ravel(), quantities, strict=True):
        for engine in engines:
            axis.plot(cases, [value(results.of(engine, case)) for case in cases], "o", label=engine, alpha=0.8)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="x", rotation=60)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels() and title.startswith("sd"):
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)
