"""Results of inspect and photometry against simulated truth, pooled over fields.

    python bench/quality.py [--size 4096] [--seeds 5] [--density 9300 13000]

Ends with status 1 when a promise is broken: zero point within 0.01 mag, inner astrometric residual below 8 mas, scatter
at 13-19 mag at most 1.15 times the quoted errors (1.25 at 4096 pixels), no bias above 0.02 mag down to S/N 10.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

from services.photometry.run import warm
from stdweb.sky import simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.photometry import Bench
from tests.support.photometry_truth import (
    Stars,
    astrometric_rms_mas,
    compare,
    pooled,
    read_solution,
    table_by_mag,
)

ZERO_POINT_MAG = 0.01
RESIDUAL_MAS = 8.0
BIAS_MAG = 0.02
LEAST_SN = 10.0
MAG_PER_LN = 2.5 / math.log(10)
DENSITIES = (9_300.0, 13_000.0)
"""As in the benchmark of photometry, which gives 5,000 catalogue stars, and as in the demonstration."""


def one_field(folder: Path, size: int, seed: int, density: float) -> tuple[Stars, list[str]]:
    """Simulate and process a field; print its line, and give its stars and what is wrong."""
    task = Bench(folder, folder / "mirror")
    sky = simulate(folder, size=size, seed=seed, mirror_dir=task.mirror_dir, stars_per_deg2=density)
    sky.image.rename(folder / "image.fits")
    computed = task.run(task.inspect())
    zero = computed["zp"] - sky.aperture_zero_point_mag(computed["fwhm"])
    residual = astrometric_rms_mas(read_solution(task.work / "image.wcs"), sky.wcs, size)
    print(
        f"{seed:4d} {zero:+11.4f} {computed['color_term'] + sky.color_term:+11.4f} {computed['fwhm']:6.2f} "
        f"{computed['mag_limit']:6.2f} {residual:10.1f}"
    )
    wrong = [] if abs(zero) < ZERO_POINT_MAG else [f"seed {seed}: zero point off by {zero:+.4f} mag"]
    wrong += [] if residual < RESIDUAL_MAS else [f"seed {seed}: inner astrometric residual {residual:.1f} mas"]
    return compare(Table.read(task.work / "objects.parquet"), sky.truth), wrong


def judge(stars: Stars, allowed_ratio: float) -> list[str]:
    """Print the table of the pooled stars and give what is wrong."""
    print("  mag    stars    bias  scatter   error  ratio  found")
    wrong = []
    for row in table_by_mag(stars, np.arange(13, 22.1, 1.0)):
        print(
            f"{row['low']:5.1f} {row['stars']:8d} {row['bias']:+7.4f} {row['scatter']:8.4f} "
            f"{row['error']:7.4f} {row['ratio']:6.2f} {row['found']:6.3f}"
        )
        if row["high"] <= 19 and row["ratio"] > allowed_ratio:
            wrong.append(f"{row['low']:g} mag: scatter {row['ratio']:.2f} times the quoted errors")
        if MAG_PER_LN / row["error"] >= LEAST_SN and abs(row["bias"]) > BIAS_MAG:
            wrong.append(f"{row['low']:g} mag: bias {row['bias']:+.4f} mag")
    return wrong


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--density", type=float, nargs="+", default=DENSITIES, help="stars per square degree to r = 20; fields of each"
    )
    arguments = parser.parse_args()
    warm()
    wrong = []
    for density in arguments.density:
        print(f"{density:.0f} stars per square degree\nseed  zero point color term   fwhm  limit residual, mas")
        parts, faults = [], []
        for seed in range(1, arguments.seeds + 1):
            with tempfile.TemporaryDirectory(prefix="stdweb-quality-") as name:
                stars, found = one_field(Path(name), arguments.size, seed, density)
            parts.append(stars)
            faults += found
        faults += judge(pooled(parts), 1.15 if arguments.size < 4096 else 1.25)
        wrong += [f"{density:.0f} stars per square degree, {fault}" for fault in faults]
    print("\n".join(wrong) or "all as promised")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
