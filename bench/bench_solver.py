"""Our Alard-Lupton solver against SFFT with 9 x 9 pixels by STDPipe, alone, over several fields, in the same run.

    python bench/bench_solver.py [--cases standard crowded] [--seeds 11] [--size 1024] [--large 2048]

The template is on the image's grid already, and both backgrounds are off before the clock starts: STDPipe's SFFT on the
whole frame at once, against our solver, which takes its own backgrounds as well. Each runs in a forked child after
imports, with one thread; memory is the peak of the child above that of before. Both see the same transients: "worse
by" is judged by pairs, of fields, of transients, or of what only one of the two finds. Ends with status 1 when ours is
worse in something by more than twice the error of that comparison, less than twice as fast, or needs 1 GB and more.
"""

import argparse
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench_photometry import in_child
from difference_baseline import keep, sfft, without_sky
from quality_difference_fields import CASES, Case, Scene, simulate
from quality_difference_measure import judge, load, run
from quality_difference_report import BIAS_FROM_SN, FAR_PULL, KINDS, Results
from threadpoolctl import threadpool_limits

THEIRS: Final = "SFFT 9x9"
OURS: Final = "hotpants"
MOST_MB: Final = 1000
LEAST_FASTER: Final = 2.0
DOUBT_SIGMA: Final = 2.0


@dataclass(frozen=True)
class Comparison:
    """A figure of both; `worse` is by how much ours is worse, and `error` how well that is known."""

    text: str
    theirs: str
    ours: str
    worse: float
    error: float

    @property
    def kept(self) -> bool:
        """Tell whether ours is no worse, as far as can be told."""
        return self.worse <= DOUBT_SIGMA * self.error


def flat(scene: Scene) -> Scene:
    """Give the scene with both backgrounds taken off, and nothing but finite pixels."""
    pair = scene.pair
    bad = pair.template_mask | ~np.isfinite(pair.template)
    there = np.where(np.isfinite(pair.template), pair.template, 0).astype(float)
    planes = without_sky(pair.image.astype(float), pair.mask), without_sky(there, bad)
    image, template = (plane.astype(np.float32) for plane in planes)
    return replace(scene, pair=replace(pair, image=image, template=template, template_mask=bad))


def alone(scene: Scene, out: Path) -> None:
    """Run STDPipe's SFFT alone, on the whole frame."""
    warnings.simplefilter("ignore")
    pair = scene.pair
    keep(scene, sfft(scene, (pair.image, pair.mask), (pair.template, pair.template_mask), False), out)


def measure(case: Case, size: int, seed: int) -> list[dict[str, Any]]:
    """Subtract one field in both ways."""
    scene = flat(simulate(case, size, seed))
    rows = []
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as folder:
        for name, work in ((THEIRS, partial(alone, scene)), (OURS, partial(run, OURS, scene))):
            out = Path(folder) / f"{len(rows)}.npz"
            seconds, processor, memory = in_child(partial(work, out))
            row = {"case": case.name, "size": size, "seed": seed, "engine": name}
            row |= {"s": seconds, "processor_s": processor, "mb": memory} | judge(scene, load(out))
            rows.append(row)
    both = [f"{rows[0][key]:.3g} {rows[1][key]:.3g}" for key in ("processor_s", "mb", "false")]
    both += [f"{rows[0][key] or np.nan:.3f} {rows[1][key] or np.nan:.3f}" for key in ("off", "on")]
    print(f"{case.name:17s} {size:5d} {seed:4d}" + "".join(f"{text:>16s}" for text in both), flush=True)
    return rows


def compare(rows: list[dict[str, Any]]) -> list[Comparison]:
    """Compare all fields together."""
    both = Results(rows).of(THEIRS), Results(rows).of(OURS)
    made = []
    for name, text in (("off", "off sources"), ("on", "on stars of r < 16")):
        known = [(a[name], b[name]) for a, b in zip(both[0].rows, both[1].rows, strict=True) if a[name] and b[name]]
        theirs, ours = np.abs(np.array(known).T - 1)
        worse = ours - theirs
        ranges = [f"{min(values):.3f} to {max(values):.3f}" for values in zip(*known, strict=True)]
        error = float(worse.std() / np.sqrt(max(worse.size - 1, 1)))
        made.append(Comparison(f"difference/noise {text}, from 1", *ranges, float(worse.mean()), error))
    for kind, where in KINDS.items():
        made.append(_bias(both, kind, where))
        for low, high in ((5, 7), (7, 10), (10, 1e9)):
            made.append(_completeness(both, kind, where, low, high))
    false = [int(sum(row["false"] for row in one.rows)) for one in both]
    error = float(np.sqrt(sum(false)))
    made.append(Comparison("false candidates", *(f"{count}" for count in false), float(false[1] - false[0]), error))
    return made


def _bias(both: tuple[Results, Results], kind: str, where: str) -> Comparison:
    chosen = both[0].column("kind") == kind
    chosen &= both[0].column("sn") >= BIAS_FROM_SN
    for one in both:
        chosen &= one.column("clean").astype(bool) & (np.abs(one.column("pull")) < FAR_PULL)
    ratios = [one.column("ratio")[chosen] - 1 for one in both]
    sn = both[0].column("sn")[chosen]
    weight = sn**2 / (1 + (0.02 * sn) ** 2)
    mean = [float(np.average(ratio, weights=weight)) for ratio in ratios]
    apart = ratios[1] - ratios[0]
    root = np.sqrt((weight**2).sum()) / weight.sum()
    spreads = [np.sqrt(np.average((values - values.mean()) ** 2, weights=weight)) for values in (*ratios, apart)]
    texts = [f"{100 * m:+.2f} ± {100 * s * root:.2f} %" for m, s in zip(mean, spreads[:2], strict=True)]
    worse = abs(mean[1]) - abs(mean[0])
    return Comparison(f"bias of fluxes, {where}, %", *texts, 100 * worse, float(100 * spreads[2] * root))


def _completeness(both: tuple[Results, Results], kind: str, where: str, low: float, high: float) -> Comparison:
    sn = both[0].column("sn")
    chosen = (both[0].column("kind") == kind) & (sn >= low) & (sn < high)
    theirs, ours = (one.column("found").astype(bool)[chosen] for one in both)
    only = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    sign = f"S/N {low} to {high:g}" if high < 1e6 else f"S/N {low} and more"
    texts = (f"{found.sum()} of {found.size}" for found in (theirs, ours))
    return Comparison(f"found, {where}, {sign}", *texts, only[0] - only[1], float(np.sqrt(sum(only))))


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--large", type=int, default=2048, help="one more field, for time and memory; 0 for none")
    arguments = parser.parse_args()
    threadpool_limits(1)
    chosen = [case for case in CASES if case.name in arguments.cases]
    wanted = [(case, arguments.size, seed) for seed in arguments.seeds for case in chosen]
    wanted += [(chosen[0], arguments.large, arguments.seeds[0])] if arguments.large else []
    print(f"{'':28s}" + "".join(f"{name:>16s}" for name in ("processor, s", "MB", "false", "off", "on")))
    rows = [row for one in wanted for row in measure(*one)]
    compared = compare(rows)
    print(f"\n{len(wanted)} fields{'':24s}{THEIRS:>20s}{OURS:>20s}{'worse by':>20s}")
    for one in compared:
        worse = f"{one.worse:+.3g} ± {one.error:.2g}"
        print(f"{one.text:32s}{one.theirs:>20s}{one.ours:>20s}{worse:>20s}{'' if one.kept else '  WORSE'}")
    ratios = [a["processor_s"] / b["processor_s"] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    most = max(row["mb"] for row in rows[1::2])
    print(f"processor time of {THEIRS} over ours: {min(ratios):.1f} to {max(ratios):.1f}; ours needs {most:.0f} MB")
    sys.exit(any(not one.kept for one in compared) or min(ratios) < LEAST_FASTER or most >= MOST_MB)


if __name__ == "__main__":
    main()
