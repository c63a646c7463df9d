"""Time and quality of the photometry step against the plain sequence of STDPipe calls.

    python bench/bench_photometry.py [--size 4096]

Both run in a forked child each, after imports; memory is the peak of all processes together above that of before.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from astropy.io import fits
from astropy.table import Table
from photometry_baseline import plain_photometry
from scipy.spatial import cKDTree

from services.photometry.run import warm
from shared.science.catalogs import fetch_catalog
from shared.worker.step import Resources
from stdweb.sky import Observation, simulate
from stdweb.sky.observe import GAIN

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.photometry import Bench
from tests.support.photometry_truth import MATCH_PIX, astrometric_rms_mas, compare, read_solution, table_by_mag

STARS_PER_DEG2 = 9_300.0
"""Gives 5,000 catalogue stars to r = 20 in the cone around 2048 x 2048 pixels of one arcsecond."""

BEST = (min, min, max)
"""Of several runs: the shortest, and the largest memory."""


def memory_mb() -> float:
    """Give what this process and all below it hold, pages that they share counted once."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss / 2**20
    return total


def in_child(work: Callable[[], None]) -> tuple[float, float, float]:
    """Run in a forked child; give seconds, seconds of processor, and the peak of memory above that of before, MB."""
    before = memory_mb()
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  the edge of a process
            traceback.print_exc()
        finally:
            os._exit(status)
    peak = 0.0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, memory_mb())
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit("the child failed")
    return seconds, usage.ru_utime + usage.ru_stime, peak - before


def baseline(sky: Observation, task: Bench) -> None:
    """Run the plain sequence."""
    resources = Resources(cache_dir=task.folder / "cache", mirror_dir=sky.mirror_dir)

    def stars(ra: float, dec: float, radius: float) -> Table:
        return fetch_catalog("ps1", ra, dec, radius, band="r", limit_mag=20.0, resources=resources, log=lambda *_: None)

    warnings.simplefilter("ignore")
    objects, wcs = plain_photometry(
        task.folder / "image.fits", task.folder / "mask.fits", stars, task.folder, gain=GAIN
    )
    objects.write(task.folder / "baseline.parquet", overwrite=True)
    fits.PrimaryHDU(header=wcs.to_header(relax=True)).writeto(task.folder / "baseline.wcs", overwrite=True)


def ours(task: Bench) -> None:
    """Run the step."""
    task.run({"filter": "r", "cat_limit": 20, "gain": GAIN})


def shared_stars(objects: Table, others: Table) -> Table:
    """Give the unflagged objects that are unflagged in the other table, too.

    The plain sequence flags a tenth of the faint stars as odd, mostly those with the largest errors: without them the
    rest looks better than it is.
    """
    clean, good = objects[objects["flags"] == 0], others[others["flags"] == 0]
    distance, _ = cKDTree(np.c_[good["x"], good["y"]]).query(np.c_[clean["x"], clean["y"]])
    return clean[distance < MATCH_PIX]


def report(name: str, objects: Table, sky: Observation) -> None:
    """Print quality by magnitude."""
    print(name)
    print("   mag    stars    bias  scatter   error  ratio  found")
    for row in table_by_mag(compare(objects, sky.truth), np.arange(13, 21.6, 1.0), least=10):
        print(
            f"  {row['low']:4.1f} {row['stars']:8d} {row['bias']:+7.4f} {row['scatter']:8.4f} "
            f"{row['error']:7.4f} {row['ratio']:6.2f} {row['found']:6.3f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without the plain sequence, which takes a minute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
        task = Bench(Path(name), Path(name) / "mirror")
        sky = simulate(
            task.folder, size=arguments.size, seed=1, mirror_dir=task.mirror_dir, stars_per_deg2=STARS_PER_DEG2
        )
        sky.image.rename(task.folder / "image.fits")
        task.inspect({"filter": "r"})
        warm()
        in_child(partial(ours, task))
        mine = [in_child(partial(ours, task)) for _ in range(arguments.repeat)]
        plain = [] if arguments.alone else [in_child(partial(baseline, sky, task)) for _ in range(arguments.repeat)]
        image_mb = arguments.size**2 * 8 / 2**20
        best, work, memory = (choose(column) for choose, column in zip(BEST, zip(*mine, strict=True), strict=True))
        print(f"{len(Table.read(task.work / 'cat.parquet'))} catalogue stars")
        print(
            f"this step:     {best:.2f} s, {work:.2f} s of processor, "
            f"{memory:.0f} MB = {memory / image_mb:.1f} x the image as float64"
        )
        results = [("this step", "", task.work)]
        if plain:
            slow, toil, much = (choose(column) for choose, column in zip(BEST, zip(*plain, strict=True), strict=True))
            print(f"plain STDPipe: {slow:.2f} s, {toil:.2f} s of processor, {much:.0f} MB")
            print(f"ratio:         {slow / best:.1f}, of processor {toil / work:.1f}")
            results.append(("plain STDPipe", "baseline", task.folder))
        tables = []
        for title, stem, folder in results:
            tables.append(Table.read(folder / f"{stem or 'objects'}.parquet"))
            residual = astrometric_rms_mas(read_solution(folder / f"{stem or 'image'}.wcs"), sky.wcs, arguments.size)
            report(f"{title}: inner astrometric residual {residual:.1f} mas", tables[-1], sky)
        if plain:
            for (title, _, _), objects, others in zip(results, tables, reversed(tables), strict=True):
                report(f"{title}: only stars that are unflagged in both", shared_stars(objects, others), sky)


if __name__ == "__main__":
    main()
