"""Time of `simple_transients` against STDPipe's own search, `filter_transient_candidates` with cutouts, in one run.

    python bench/bench_simple_transients.py [--size 2048] [--fields 2] [--rounds 3]

Both ask the same local stand-ins of CDS XMatch and hips2fits, which run in a process of their own, for the objects of
the same photometry; each has an empty cache first, then what its first run left there (astroquery's on disk, ours by
cells of the sky). The search alone is timed apart from the whole, whose cutouts take a picture of the survey each.
Shortest of some runs; the processor's time is that of this process without the archives.
"""

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS

from shared.science.archives import apply_ca_bundle
from shared.science.catalogs.mirror import read_mirror
from shared.science.crossmatch import GAIA, PS1
from shared.worker.step import Resources
from stdweb.sky import simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.archives import ArchiveServer
from tests.support.photometry import Bench
from tests.support.transients import Search, inject

MAGS = np.linspace(15.5, 20.0, 40)
MAG_DIFF = 2.0
CUTOUT_PIX = 30
TIME = "2026-11-02T21:35:40"


def serve(folder: Path, tables: dict[str, Table], pipe: Connection) -> None:
    """Run the archives until the pipe closes."""
    with ArchiveServer(folder=folder, tables=tables) as server:
        pipe.send(server.environment)
        with contextlib.suppress(EOFError):
            pipe.recv()


@contextlib.contextmanager
def archives(folder: Path, tables: dict[str, Table]) -> Iterator[None]:
    """Put the archives in front of this process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(folder, tables, theirs))
    process.start()
    theirs.close()
    os.environ.update(ours.recv())
    apply_ca_bundle(Path(os.environ["STDWEB_CA_BUNDLE"]))
    try:
        yield
    finally:
        ours.close()
        process.join(10)


def field_of(folder: Path, size: int, seed: int) -> tuple[Search, dict[str, Table]]:
    """Make a task with photometry in a field with new stars, and what the archives know there."""
    sky = simulate(folder, size=size, seed=seed, mirror_dir=folder / "mirror")
    injected = inject(sky, folder / "image.fits", MAGS)
    task = Bench(folder, sky.mirror_dir)
    config = task.inspect({"filter": "r", "cat_name": "ps1", "time": TIME})
    config |= task.run(config)
    for path in task.work.iterdir():
        path.rename(folder / path.name)
    resources = Resources(cache_dir=folder / "cache", mirror_dir=sky.mirror_dir)
    place = config["field_ra"], config["field_dec"], config["field_sr"] + 0.02
    tables = {
        survey.table: read_mirror(survey.code, *place, limit_mag=None, resources=resources, log=lambda *_: None).stars
        for survey in (GAIA, PS1)
    }
    return Search(folder, folder / "found", config, injected), tables


@dataclass(frozen=True)
class Taken:
    """Seconds of a run, by the clock and of the processor: of the search alone, and of everything."""

    search_s: float
    search_cpu_s: float
    whole_s: float
    whole_cpu_s: float
    candidates: int

    @classmethod
    def of(
        cls, began: tuple[float, float], searched: tuple[float, float], ended: tuple[float, float], candidates: int
    ) -> "Taken":
        """Take differences of times."""
        return cls(searched[0] - began[0], searched[1] - began[1], ended[0] - began[0], ended[1] - began[1], candidates)

    def best(self, other: "Taken | None") -> "Taken":
        """Take the shorter of each time."""
        mine, others = astuple(self), astuple(other or self)
        return Taken(*map(min, mine[:-1], others[:-1]), self.candidates)


class Stamps(list[str]):
    """Lines of a log; notes when the search has ended and the writing begins."""

    searched = (0.0, 0.0)

    def append(self, line: str) -> None:
        """Take a line."""
        super().append(line)
        if "candidates" in line:
            self.searched = now()


def now() -> tuple[float, float]:
    """Give the clock, and the processor time of this process."""
    return time.perf_counter(), time.process_time()


def ours(search: Search) -> Taken:
    """Run the step."""
    stamps = Stamps()
    search.lines = stamps
    began = now()
    found = search.run(cutout_size=CUTOUT_PIX)
    return Taken.of(began, stamps.searched, now(), len(found))


def plain(search: Search) -> Taken:
    """Do the same with STDPipe, as its users do."""
    from stdpipe import astrometry, cutouts, pipeline, templates

    def brighter(objects: Table, stars: Table, name: str) -> np.ndarray:
        column = "Gmag" if name == "gaiaedr3" else "rmag"
        return ~(np.ma.filled(stars[column], np.nan) - objects["mag_calib"] >= MAG_DIFF)

    began = now()
    objects, catalog = (Table.read(search.folder / name) for name in ("objects.parquet", "cat.parquet"))
    image = fits.getdata(search.folder / "image.fits").astype(float)
    mask = fits.getdata(search.folder / "mask.fits") > 0
    header = fits.getheader(search.folder / "image.fits")
    astrometry.clear_wcs(header, remove_underscored=True, remove_history=True)
    header.update(WCS(fits.getheader(search.folder / "image.wcs")).to_header(relax=True))
    found = pipeline.filter_transient_candidates(
        objects,
        cat=catalog,
        fwhm=search.config["fwhm"],
        pixscale=search.config["pixscale"],
        time=Time(TIME),
        vizier=["gaiaedr3", "ps1"],
        skybot=False,
        vizier_checker_fn=brighter,
        flagmask=0x7E00,
        verbose=False,
    )
    searched = now()
    search.work.mkdir(exist_ok=True)
    found.sort("mag_calib")
    for number, row in enumerate(found[:100]):
        cutout = cutouts.get_cutout(image, row, CUTOUT_PIX, mask=mask, header=header, time=Time(TIME))
        cutout["template"] = templates.get_hips_image("PanSTARRS/DR1/r", header=cutout["header"], get_header=False)
        cutouts.write_cutout(cutout, str(search.work / f"{number:04d}.cutout"))
    return Taken.of(began, searched, now(), len(found))


WAYS: dict[str, Callable[[Search], Taken]] = {"STDPipe": plain, "simple_transients": ours}
CACHES = ("empty cache", "filled cache")


def measure(search: Search, folder: Path, rounds: int) -> dict[tuple[str, str], Taken]:
    """Run both ways in turn, each with an empty cache and again."""
    best: dict[tuple[str, str], Taken] = {}
    for number in range(rounds):
        os.environ["XDG_CACHE_HOME"] = str(folder / f"xdg-{number}")  # astroquery's and astropy's
        (folder / f"xdg-{number}").mkdir()
        search.cache_dir = folder / f"cache-{number}"
        for cache in CACHES:
            for way, work in WAYS.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    taken = work(search)
                if number:  # the first round is for what is made once in a process
                    best[way, cache] = taken.best(best.get((way, cache)))
    return best


def report(best: dict[tuple[str, str], Taken]) -> None:
    """Print times and ratios."""
    for cache in CACHES:
        print(f"  {cache}: seconds by the clock (of the processor)")
        for way in WAYS:
            one = best[way, cache]
            print(
                f"    {way:18} search {one.search_s:6.2f} ({one.search_cpu_s:5.2f})   "
                f"with cutouts {one.whole_s:6.2f} ({one.whole_cpu_s:5.2f})   {one.candidates} candidates"
            )
        theirs, mine = (best[way, cache] for way in WAYS)
        print(
            f"    ratio              search {theirs.search_s / mine.search_s:6.2f} "
            f"({theirs.search_cpu_s / mine.search_cpu_s:5.2f})   "
            f"with cutouts {theirs.whole_s / mine.whole_s:6.2f} ({theirs.whole_cpu_s / mine.whole_cpu_s:5.2f})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--fields", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for seed in range(1, arguments.fields + 1):
        with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
            folder = Path(name)
            search, tables = field_of(folder, arguments.size, seed)
            (folder / "ca").mkdir()
            with archives(folder / "ca", tables):
                print(f"field {seed}, {arguments.size} x {arguments.size} pixels")
                report(measure(search, folder, arguments.rounds + 1))


if __name__ == "__main__":
    main()
