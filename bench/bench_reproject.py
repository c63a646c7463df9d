"""Time and quality of putting a template onto an image's grid, against `reproject_adaptive` and STDPipe's Lanczos.

    python bench/bench_reproject.py [--size 2048]

Image and mask, as subtraction needs them, of isolated stars without noise. Each row says how far fluxes and places of
the stars are from the truth, at worst, and how much wider the stars have become. Both others are given the whole frame,
which is kind to them: tile by tile, as the plain sequence calls them, the overlaps come on top. Seconds are processor
time of one thread, the best of some runs.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from astropy.wcs import WCS
from reproject import reproject_adaptive
from stdpipe.reproject import reproject_lanczos

from shared.science.templates import pixel_map, reproject

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.reprojection import Grid, tan, with_sip

FLUX = 1e5
FWHM_ARCSEC = 3.0
RADIUS_PIX = 9.0
SCALES_ARCSEC = (1.0, 0.5, 2.0)

Result = tuple[np.ndarray, np.ndarray]
Task = tuple[np.ndarray, np.ndarray, WCS, WCS, tuple[int, int]]


def ours(task: Task) -> Result:
    """Run the project's."""
    image, bad, source, target, shape = task
    return reproject(image, bad, pixel_map(target, shape, source))


def adaptive(task: Task) -> Result:
    """Run what the plain sequence does, with the flux conserved."""
    image, bad, source, target, shape = task
    found, _ = reproject_adaptive((image, source), target, shape, conserve_flux=True)
    mask, there = reproject_adaptive((bad.astype(float), source), target, shape)
    return found, (mask > 0.5) | (there < 0.5)


def lanczos(task: Task) -> Result:
    """Run STDPipe's own."""
    image, bad, source, target, shape = task
    height, width = shape
    found = reproject_lanczos([(image, source)], wcs=target, width=width, height=height)
    mask = reproject_lanczos([(bad.astype(np.int16), source)], wcs=target, width=width, height=height, is_flags=True)
    return found, mask > 0


def best_of(work: Callable[[Task], Result], task: Task, runs: int) -> tuple[float, Result]:
    """Give the shortest processor time, seconds, and the result."""
    shortest = np.inf
    for _ in range(runs):
        began = time.process_time()
        result = work(task)
        shortest = min(shortest, time.process_time() - began)
    return shortest, result


def width_of(image: np.ndarray, stars: Grid) -> float:
    """Give the FWHM that a Gaussian of the stars' second moments has, pixels."""
    widths = []
    for x, y in zip(stars.x[:200], stars.y[:200], strict=True):
        v, u = np.mgrid[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        part = image[v, u]
        widths.append(np.sqrt((part * ((u - x) ** 2 + (v - y) ** 2)).sum() / part.sum() / 2))
    return 2.3548 * float(np.median(widths))


def main() -> None:
    """Print a table for each scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="side of the image, pixels")
    size = parser.parse_args().size
    shape = (size, size)
    target = with_sip(tan(1.0, shape), shape, 5.0)
    stars = Grid.on(target, shape, spacing_pix=40)
    for scale in SCALES_ARCSEC:
        side = int(1.15 * size / scale)
        source = tan(scale, (side, side), rotation_deg=2.0, ra_deg=150.0007)
        image = stars.draw(source, (side, side), FWHM_ARCSEC / scale, FLUX)
        task = (image, np.zeros(image.shape, bool), source, target, shape)
        ours(task)  # compiles
        print(f"template of {side}² pixels of {scale:g} arcsec onto {size}² of 1 arcsec, 2 degrees turned, SIP")
        print("                     s  ratio   flux, worst %   place, worst pix   FWHM, pix (3.00)")
        first = None
        for name, work, runs in (("this project", ours, 3), ("adaptive", adaptive, 1), ("STDPipe Lanczos", lanczos, 1)):
            seconds, (found, _) = best_of(work, task, runs)
            first = first or seconds
            flux, offset_pix = stars.measure(found, RADIUS_PIX)
            print(
                f"  {name:15s} {seconds:6.2f} {seconds / first:6.1f} {100 * np.abs(flux / FLUX - 1).max():15.3f} "
                f"{offset_pix.max():18.4f} {width_of(found, stars):18.2f}"
            )


if __name__ == "__main__":
    main()
