"""Time and quality of the photometry step against the plain sequence of STDPipe calls.

    python -m bench.photometry [--size 2048]

Run from the project's folder. Both run in a child process each, forked after imports; memory is the peak above that.
"""

import argparse
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from bench.photometry_baseline import plain_photometry
from services.photometry.run import warm
from shared.science.catalogs import fetch_catalog
from shared.worker.step import Resources
from stdweb.sky import Observation, simulate
from stdweb.sky.observe import GAIN, SATURATION_ADU
from tests.support.photometry import Bench
from tests.support.photometry_truth import astrometric_rms_mas, compare, table_by_mag, write_mask

STARS_PER_DEG2 = 15_500.0
"""Gives 5,000 catalogue stars to r = 20 in the cone around 2048 x 2048 pixels of one arcsecond."""


def in_child(work: Callable[[], None]) -> tuple[float, float]:
    """Run in a forked child; give seconds, and the peak of memory above the start of the whole group, MB."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit("the child failed")
    return seconds, usage.ru_maxrss / 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def baseline(sky: Observation, task: Bench) -> None:
    resources = Resources(cache_dir=task.folder / "cache", mirror_dir=sky.mirror_dir)

    def stars(ra: float, dec: float, radius: float) -> Table:
        return fetch_catalog(
            "ps1", ra, dec, radius, band="r", limit_mag=20.0, resources=resources, log=lambda *_: None
        )

    warnings.simplefilter("ignore")
    objects, wcs = plain_photometry(
        task.folder / "image.fits", task.folder / "mask.fits", stars, task.folder, gain=GAIN
    )
    objects.write(task.folder / "baseline.parquet", overwrite=True)
    fits.PrimaryHDU(header=wcs.to_header(relax=True)).writeto(task.folder / "baseline.wcs", overwrite=True)


def ours(task: Bench) -> None:
    task.run({"filter": "r", "cat_limit": 20, "gain": GAIN})


def report(name: str, objects: Table, wcs: WCS, sky: Observation, size: int) -> None:
    """Print quality by magnitude."""
    print(f"{name}: inner astrometric residual {astrometric_rms_mas(wcs, sky.wcs, size):.1f} mas")
    print("   mag    stars    bias  scatter   error  ratio  found")
    for row in table_by_mag(compare(objects, sky.truth), np.arange(13, 21.6, 1.0), least=10):
        print(
            f"  {row['low']:4.1f} {row['stars']:8d} {row['bias']:+7.4f} {row['scatter']:8.4f} "
            f"{row['error']:7.4f} {row['ratio']:6.2f} {row['found']:6.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
        task = Bench(Path(name), Path(name) / "mirror")
        sky = simulate(
            task.folder, size=arguments.size, seed=1, mirror_dir=task.mirror_dir, stars_per_deg2=STARS_PER_DEG2
        )
        sky.image.rename(task.folder / "image.fits")
        write_mask(task.folder / "image.fits", task.folder / "mask.fits", gain=GAIN, saturation_adu=SATURATION_ADU)
        warm()
        in_child(partial(ours, task))
        mine = [in_child(partial(ours, task)) for _ in range(arguments.repeat)]
        plain = [in_child(partial(baseline, sky, task)) for _ in range(arguments.repeat)]
        image_mb = arguments.size**2 * 8 / 2**20
        best, memory = min(mine)[0], max(peak for _, peak in mine)
        print(f"{len(Table.read(task.work / 'cat.parquet'))} catalogue stars")
        print(f"plain STDPipe: {min(plain)[0]:.2f} s, {max(peak for _, peak in plain):.0f} MB")
        print(f"this step:     {best:.2f} s, {memory:.0f} MB = {memory / image_mb:.1f} x the image as float64")
        print(f"ratio:         {min(plain)[0] / best:.1f}")
        report("plain STDPipe", Table.read(task.folder / "baseline.parquet"), WCS(fits.getheader(task.folder / "baseline.wcs")), sky, arguments.size)
        report("this step", Table.read(task.work / "objects.parquet"), WCS(fits.getheader(task.work / "image.wcs")), sky, arguments.size)


if __name__ == "__main__":
    main()
