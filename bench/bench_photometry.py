"""Time and quality of the photometry step against the plain sequence of STDPipe calls.

    python bench/bench_photometry.py [--size 4096] [--fields 9]

Both run in a forked child each, after imports; memory is the peak of all processes together above that of before.
Quality is pooled over the fields: one of 2048 x 2048 pixels has 45 to 130 stars in a bin of bright ones, so that its
scatter is uncertain by 10 to 17 %.
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
from tests.support.photometry_truth import (
    MATCH_PIX,
    Stars,
    astrometric_rms_mas,
    compare,
    pooled,
    read_solution,
    table_by_mag,
)

STARS_PER_DEG2 = 9_300.0
"""Gives 5,000 catalogue stars to r = 20 in the cone around 2048 x 2048 pixels of one arcsecond."""

OURS, PLAIN = "this step", "plain STDPipe"

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


def report(name: str, stars: Stars) -> None:
    """Print quality by magnitude."""
    print(name)
    print("   mag    stars    bias  scatter   error  ratio  found")
    for row in table_by_mag(stars, np.arange(13, 21.6, 1.0), least=10):
        print(
            f"  {row['low']:4.1f} {row['stars']:8d} {row['bias']:+7.4f} {row['scatter']:8.4f} "
            f"{row['error']:7.4f} {row['ratio']:6.2f} {row['found']:6.3f}"
        )


def one_field(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Stars]:
    """Simulate a field, process it both ways, print what that took, and give the stars of each table."""
    task = Bench(folder, folder / "mirror")
    sky = simulate(folder, size=arguments.size, seed=seed, mirror_dir=task.mirror_dir, stars_per_deg2=STARS_PER_DEG2)
    sky.image.rename(folder / "image.fits")
    task.inspect({"filter": "r"})
    in_child(partial(ours, task))
    mine = [in_child(partial(ours, task)) for _ in range(arguments.repeat)]
    plain = [] if arguments.alone else [in_child(partial(baseline, sky, task)) for _ in range(arguments.repeat)]
    image_mb = arguments.size**2 * 8 / 2**20
    best, work, memory = (choose(column) for choose, column in zip(BEST, zip(*mine, strict=True), strict=True))
    print(f"seed {seed}: {len(Table.read(task.work / 'cat.parquet'))} catalogue stars")
    print(
        f"this step:     {best:.2f} s, {work:.2f} s of processor, "
        f"{memory:.0f} MB = {memory / image_mb:.1f} x the image as float64"
    )
    results = [(OURS, "image", "objects", task.work)]
    if plain:
        slow, toil, much = (choose(column) for choose, column in zip(BEST, zip(*plain, strict=True), strict=True))
        print(f"plain STDPipe: {slow:.2f} s, {toil:.2f} s of processor, {much:.0f} MB")
        print(f"ratio:         {slow / best:.1f}, of processor {toil / work:.1f}")
        results.append((PLAIN, "baseline", "baseline", task.folder))
    tables = {}
    for title, solution, objects, place in results:
        residual = astrometric_rms_mas(read_solution(place / f"{solution}.wcs"), sky.wcs, arguments.size)
        print(f"{title}: inner astrometric residual {residual:.1f} mas")
        tables[title] = Table.read(place / f"{objects}.parquet")
    if plain:
        for title, other in ((OURS, PLAIN), (PLAIN, OURS)):
            tables[f"{title}, only stars that are unflagged in both"] = shared_stars(tables[title], tables[other])
    return {title: compare(table, sky.truth) for title, table in tables.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--fields", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without the plain sequence, which takes a minute")
    arguments = parser.parse_args()
    warm()
    fields = []
    for seed in range(1, arguments.fields + 1):
        with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
            fields.append(one_field(Path(name), seed, arguments))
    for title in fields[0]:
        report(title, pooled([field[title] for field in fields]))


if __name__ == "__main__":
    main()
