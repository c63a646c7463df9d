"""Time, memory and quality of a subtraction with its reprojection, against the plain STDPipe sequence, in the same run.

    python bench/bench_difference.py [--size 2048] [--case standard]
    python bench/bench_difference.py --alone

The plain sequence is SFFT with 9 x 9 pixels by STDPipe, in parts of 1000 pixels, each with the template and its mask
put on the part by `reproject_adaptive` and both backgrounds subtracted. "reweighted" gives SFFT the noise of the
template, too, with which it solves a second time. Ours is the reprojection of the frame and one of the engines. All run
in a forked child each, after imports, with one thread; memory is the peak of the child above that of before.

With `--alone` the template is on the image's grid already, and both backgrounds are off before the clock starts:
STDPipe's SFFT on the whole frame at once, against our Alard-Lupton solver.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import reproject as reference
import sep
from bench_photometry import in_child
from quality_difference_fields import CASES, Scene, simulate
from quality_difference_measure import judge, load, run, save
from quality_difference_report import Results
from stdpipe import sfft as stdpipe_sfft
from stdpipe import subtraction as stdpipe_subtraction
from threadpoolctl import threadpool_limits

from shared.science.difference import ENGINES, Difference, Options, Pair, subtract
from shared.science.templates import pixel_map, reproject, warm

PART_PIX = 1000
OVERLAP_PIX = 50
KERNEL = (9, 9)


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


def keep(scene: Scene, found: dict[str, np.ndarray | float], out: Path) -> None:
    """Keep what STDPipe made as a difference of ours."""
    bad = found["bad"]
    planes = {name: found[name].astype(np.float32) for name in ("difference", "convolved", "noise")}
    planes["noise"][~(planes["noise"] > 0)] = np.median(planes["noise"])
    planes["difference"][bad] = 0
    save(
        Difference(
            **planes,
            significance=planes["difference"] / planes["noise"],
            mask=bad,
            scale=found["scale"],
            scale_error=np.nan,
            scale_scatter=np.nan,
            fwhm_pix=scene.case.image.shape.fwhm_pix,
            convolved_side="template",
            stars=0,
        ),
        out,
    )


def plain_part(scene: Scene, part: tuple[slice, slice], *, reweighted: bool) -> dict[str, np.ndarray | float]:
    """Subtract one part by STDPipe's functions."""
    template, template_bad, template_wcs, wcs = scene.template_own
    image, mask = scene.pair.image[part].astype(float), np.ascontiguousarray(scene.pair.mask[part])
    here = wcs[part]
    there, _ = reference.reproject_adaptive((template, template_wcs), here, image.shape, conserve_flux=True)
    share, seen = reference.reproject_adaptive((template_bad.astype(float), template_wcs), here, image.shape)
    there_bad = (share > 0) | (seen < 0.5) | ~np.isfinite(there)
    there = np.where(np.isfinite(there), there, 0)
    return sfft(scene, (without_sky(image, mask), mask), (without_sky(there, there_bad), there_bad), reweighted)


def without_sky(plane: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Take off the background as STDPipe's users do."""
    return np.asarray(plane - sep.Background(plane, mask=bad).back())


def sfft(
    scene: Scene, image: tuple[np.ndarray, np.ndarray], template: tuple[np.ndarray, np.ndarray], reweighted: bool
) -> dict[str, np.ndarray | float]:
    """Run STDPipe's SFFT on pixels and masks."""
    difference, convolved, noise, found = stdpipe_subtraction.run_sfft(
        image[0],
        template[0],
        mask=image[1],
        template_mask=template[1],
        err=True,
        template_err=True if reweighted else None,
        image_gain=scene.pair.gain,
        template_gain=scene.pair.template_gain,
        kernel_shape=KERNEL,
        kernel_poly_order=0,
        bg_poly_order=0,
        flux_poly_order=0,
        get_convolved=True,
        get_noise=True,
        get_kernel=True,
    )
    rows, columns = image[0].shape
    return {
        "difference": difference,
        "convolved": convolved,
        "noise": noise,
        "bad": image[1] | template[1] | found.dmask,
        "scale": float(stdpipe_sfft.evaluate_flux_scale(found, columns / 2, rows / 2, (rows, columns))),
    }


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
    parser.add_argument("--alone", action="store_true", help="without reprojection, SFFT against our own solver")
    arguments = parser.parse_args()
    threadpool_limits(1)
    warm()
    scene = simulate(next(case for case in CASES if case.name == arguments.case), arguments.size, 1)
    works: dict[str, Callable[[Path], None]]
    if arguments.alone:
        scene = flat(scene)
        works = {"sfft 9x9": partial(alone, scene), "hotpants": partial(run, "hotpants", scene)}
    else:
        works = {"plain": partial(plain, scene, reweighted=False)}
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
