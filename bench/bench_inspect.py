"""Time and quality of `inspect` against the plain sequence of public STDPipe calls, in one run.

Usage: python -m bench.inspect IMAGE.fits [CRMASK.fits]     the mask is nonzero where a cosmic ray is known to be
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from mocpy import MOC
from stdpipe import astrometry, pipeline, utils

from services.inspect.run import inspect, warm
from shared.contracts.params import InspectParams
from shared.science.images import read_image
from shared.worker.step import Resources, StepContext

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


def timed(work: Callable[[Path, Path], np.ndarray], path: Path, folder: Path) -> tuple[float, np.ndarray]:
    """Give the shortest of some runs, seconds, and the mask."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        mask = work(path, folder)
        times.append(time.perf_counter() - began)
    return min(times), mask


def main() -> None:
    """Compare, and print a table."""
    path = Path(sys.argv[1])
    truth = fits.getdata(sys.argv[2]) != 0 if len(sys.argv) > 2 else None
    warm()
    with tempfile.TemporaryDirectory() as name:
        results = {"plain": timed(plain, path, Path(name)), "inspect": timed(ours, path, Path(name))}
    image, header = read_image(path)
    known = ~np.isfinite(image) | (image >= header.get("SATURATE", np.inf))
    for label, (seconds, mask) in results.items():
        line = f"{label:8} {seconds:6.2f} s"
        if truth is not None:
            hits = truth & ~known
            line += f"   cosmic rays: recall {(mask & hits).sum() / hits.sum():.4f}"
            line += f", false {(mask & ~truth & ~known).sum()} of {(mask & ~known).sum()} pixels"
        print(line)
    print(f"ratio    {results['plain'][0] / results['inspect'][0]:6.2f}")


if __name__ == "__main__":
    main()
