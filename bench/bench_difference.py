"""Time, memory and quality of a subtraction with its reprojection, against the plain STDPipe sequence, in the same run.

    python bench/bench_difference.py [--size 2048] [--case standard]

The plain sequence is SFFT with 9 x 9 pixels by STDPipe, in parts of 1000 pixels, each with the template and its mask
put on the part by `reproject_adaptive` and both backgrounds subtracted. "reweighted" gives SFFT the noise of the
template, too, with which it solves a second time. Ours is the reprojection of the frame and one of the engines. All run
in a forked child each, after imports, with one thread; memory is the peak of the child above that of before.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from bench_photometry import in_child
from difference_baseline import keep, sfft, without_sky
from quality_difference_fields import CASES, Scene, simulate
from quality_difference_measure import judge, load, save
from quality_difference_report import Results
from reproject import reproject_adaptive
from threadpoolctl import threadpool_limits

from shared.science.difference import ENGINES, Options, Pair, subtract
from shared.science.templates import pixel_map, reproject, warm

PART_PIX = 1000
OVERLAP_PIX = 50


def plain(scene: Scene, out: Path, *, reweighted: bool) -> None:
    """Run the plain sequence and put its parts together."""
    warnings.simplefilter("ignore")
    size = scene.pair.image.shape[0]
    frame = {name: np.zeros((size, size), np.float32) for name in ("difference", "convolved", "noise")}
    bad = np.ones((size, size), bool)
    edges = np.linspace(0, size, max(round(size / PART_PIX), 1) + 1).astype(int)
    scales = []
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            wider = [
                slice(max(a - OVERLAP_PIX, 0), min(b + OVERLAP_PIX, size)) for a, b in ((top, bottom), (left, right))
            ]
            found = plain_part(scene, (wider[0], wider[1]), reweighted=reweighted)
            inner = tuple(
                slice(a - part.start, b - part.start)
                for (a, b), part in zip(((top, bottom), (left, right)), wider, strict=True)
            )
            for name, plane in frame.items():
                plane[top:bottom, left:right] = found[name][inner]
            bad[top:bottom, left:right] = found["bad"][inner]
            scales.append(found["scale"])
    keep(scene, frame | {"bad": bad, "scale": float(np.mean(scales))}, out)


def plain_part(scene: Scene, part: tuple[slice, slice], *, reweighted: bool) -> dict[str, np.ndarray | float]:
    """Subtract one part by STDPipe's functions."""
    template, template_bad, template_wcs, wcs = scene.template_own
    image, mask = scene.pair.image[part].astype(float), np.ascontiguousarray(scene.pair.mask[part])
    here = wcs[part]
    there, _ = reproject_adaptive((template, template_wcs), here, image.shape, conserve_flux=True)
    share, seen = reproject_adaptive((template_bad.astype(float), template_wcs), here, image.shape)
    there_bad = (share > 0) | (seen < 0.5) | ~np.isfinite(there)
    there = np.where(np.isfinite(there), there, 0)
    return sfft(scene, (without_sky(image, mask), mask), (without_sky(there, there_bad), there_bad), reweighted)


def ours(engine: str, scene: Scene, out: Path) -> None:
    """Put the template on the image's grid and subtract it."""
    template, template_bad, template_wcs, wcs = scene.template_own
    there, there_bad = reproject(template, template_bad, pixel_map(wcs, scene.pair.image.shape, template_wcs))
    pair = Pair(
        scene.pair.image,
        there,
        scene.pair.mask,
        there_bad,
        gain=scene.pair.gain,
        template_gain=scene.pair.template_gain,
    )
    save(subtract(engine, pair, Options(threads=1)), out)


def figures(scene: Scene, out: Path) -> dict[str, float]:
    """Judge by the truth."""
    judged = judge(scene, load(out)) | {"size": scene.pair.image.shape[0], "engine": "", "case": scene.case.name}
    one = Results([judged])
    shares = {
        f"found at S/N {low} to {high}, %": one.found("transient", low, high) for low, high in ((7, 10), (10, 100))
    }
    return {
        "sd(difference/noise) off sources": judged["off"],
        "the same on stars of r < 16": judged["on"] or np.nan,
        "bias of fluxes, field, %": 100 * one.bias("transient")[0],
        "its error, %": 100 * one.bias("transient")[1],
        "bias of fluxes, galaxies, %": 100 * one.bias("transient_g")[0],
        "its error, % ": 100 * one.bias("transient_g")[1],
        **{name: 100 * found / max(there, 1) for name, (found, there) in shares.items()},
        "false candidates": judged["false"],
        "error of the scale, %": 100 * judged["scale"],
        "masked, %": 100 * judged["masked"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--case", default="standard", choices=[case.name for case in CASES])
    parser.add_argument("--no-reweighted", action="store_true", help="leave out the slower one of the plain sequences")
    arguments = parser.parse_args()
    threadpool_limits(1)
    warm()
    scene = simulate(next(case for case in CASES if case.name == arguments.case), arguments.size, 1)
    works: dict[str, Callable[[Path], None]] = {"plain": partial(plain, scene, reweighted=False)}
    if not arguments.no_reweighted:
        works["reweighted"] = partial(plain, scene, reweighted=True)
    works |= {engine: partial(ours, engine, scene) for engine in ENGINES}
    results = {}
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as folder:
        for name, work in works.items():
            out = Path(folder) / f"{name}.npz"
            seconds, processor, memory = in_child(partial(work, out))
            measured = {"s": seconds, "s of processor": processor, "MB above before": memory}
            results[name] = measured | figures(scene, out)
    print(f"{arguments.case}, {arguments.size} x {arguments.size} pixels; hotpants is our own solver")
    print(f"{'':34s}" + "".join(f"{name:>12s}" for name in works))
    for key in next(iter(results.values())):
        print(f"{key:34s}" + "".join(f"{one[key]:12.3f}" for one in results.values()))
    times = {name: one["s of processor"] for name, one in results.items()}
    for base in (name for name in works if name not in ENGINES):
        ratios = (f"{name} {times[base] / times[name]:.1f}" for name in works if name in ENGINES)
        print(f"processor time of {base} over ours: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
