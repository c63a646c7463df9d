"""Time, quality and memory of `inspect` against the plain sequence of public STDPipe calls, in one run.

    python bench/bench_inspect.py [IMAGE.fits [ARTEFACTS.fits]] [--size 2048] [--memory-size 4096]

Simulates its own observations, unless an image is given; of ARTEFACTS a pixel is 1 where a cosmic ray is known to be,
2 where another bad pixel is. The shortest of some runs counts. Memory is the peak of all processes of a run together,
above that of an idle warm child.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from bench_photometry import in_child
from mocpy import MOC
from stdpipe import astrometry, pipeline, utils

from services.inspect.run import inspect, warm
from shared.contracts.params import InspectParams
from shared.science.images import read_image
from shared.worker.step import Resources, StepContext
from stdweb.sky import simulate
from stdweb.sky.observe import COSMIC_RAY

ROUNDS = 3


def plain(path: Path, folder: Path) -> np.ndarray:
    """What the old system does: read, describe, mask with astroscrappy, locate."""
    header = fits.getheader(path)
    image = fits.getdata(path).astype(np.double)
    np.nanmin(image), np.nanmedian(image), np.nanmax(image), np.nanstd(image)
    utils.get_obs_time(header)
    mask = pipeline.make_mask(
        image, saturation=header.get("SATURATE", True), mask_cosmics=True, gain=header.get("GAIN", 1.0), verbose=False
    )
    wcs = WCS(header)
    if wcs.is_celestial:
        astrometry.get_frame_center(wcs=wcs, width=image.shape[1], height=image.shape[0])
        MOC.from_polygon_skycoord(
            wcs.pixel_to_world([0, 0, image.shape[1], image.shape[1]], [0, image.shape[0], image.shape[0], 0])
        )
    fits.writeto(folder / "plain.fits", mask.astype(np.int8), overwrite=True)
    return mask


def ours(path: Path, folder: Path) -> np.ndarray:
    """Run the step, without the network: a target by position."""
    ctx = StepContext(
        task_id=1,
        params=InspectParams.of({"target": "x=10 y=10"}),
        config={},
        work=folder,
        resources=Resources(cache_dir=folder),
        find=lambda name: path if name == "image.fits" else None,
        say=lambda _: None,
        show=lambda *_: None,
    )
    inspect(ctx)
    return fits.getdata(folder / "mask.fits") != 0


WAYS = {"plain": plain, "inspect": ours}


def timed(work: Callable[[Path, Path], np.ndarray], path: Path, folder: Path) -> tuple[float, np.ndarray]:
    """Give the shortest of some runs, seconds, and the mask."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        mask = work(path, folder)
        times.append(time.perf_counter() - began)
    return min(times), mask


def compare(path: Path, artefacts: np.ndarray | None, folder: Path) -> None:
    """Print time and quality of both ways, and the ratio of their times."""
    results = {name: timed(work, path, folder) for name, work in WAYS.items()}
    image, header = read_image(path)
    print(f"{image.shape[1]} x {image.shape[0]} pixels")
    known = ~np.isfinite(image) | (image >= header.get("SATURATE", np.inf))
    for name, (seconds, mask) in results.items():
        line = f"{name:8} {seconds:6.2f} s"
        if artefacts is not None:
            hits = (artefacts == COSMIC_RAY) & ~known
            false = mask & (artefacts == 0) & ~known
            line += f"   cosmic rays: recall {(mask & hits).sum() / hits.sum():.4f} of {hits.sum()} pixels"
            line += f", {false.sum()} masked without one"
        print(line)
    print(f"ratio    {results['plain'][0] / results['inspect'][0]:6.2f}")


def weigh(path: Path, folder: Path) -> None:
    """Print the peak of memory of both ways; before any other run, since OpenMP's threads do not survive a fork."""
    image_mb = fits.getheader(path)["NAXIS1"] * fits.getheader(path)["NAXIS2"] * 8 / 2**20
    print(f"peak of memory, image of {image_mb:.0f} MB as float64")
    for name, work in WAYS.items():
        peak_mb = max(in_child(partial(work, path, folder))[2] for _ in range(ROUNDS))
        print(f"{name:8} {peak_mb:6.0f} MB = {peak_mb / image_mb:.1f} x the image")


def observed(folder: Path, size: int) -> tuple[Path, np.ndarray]:
    """Simulate an image and what is wrong with its pixels."""
    sky = simulate(folder, size=size)
    return sky.image, fits.getdata(sky.artefacts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("artefacts", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=2048, help="of the simulated image, pixels")
    parser.add_argument("--memory-size", type=int, default=4096, help="of the one for which memory is measured")
    arguments = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
        folder = Path(name)
        if arguments.image is None:
            weigh(observed(folder, arguments.memory_size)[0], folder)
            compare(*observed(folder, arguments.size), folder)
        else:
            weigh(arguments.image, folder)
            compare(arguments.image, None if arguments.artefacts is None else fits.getdata(arguments.artefacts), folder)


if __name__ == "__main__":
    main()
