"""Time, memory and quality of our Alard-Lupton solver against SFFT with a kernel of 9 x 9 pixels, in the same run.

    OPENBLAS_NUM_THREADS=1 python bench/bench_difference.py [--size 2048] [--zogy]

Each runs in a forked child, after imports; memory is the peak of the child above that of before.
"""

import argparse
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from bench_photometry import in_child

from shared.science.difference import Options, subtract

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.difference import Field, Shape, Sky, aperture_fluxes, make_field

STARS_PER_PIXEL = 4_000 / 2048**2
BRIGHT = 30_000.0
TRANSIENT = 8_000.0


def run(engine: str, field: Field, out: Path) -> None:
    """Subtract and keep what quality is judged by."""
    found = subtract(engine, field.pair, Options(threads=1))
    np.savez(
        out,
        difference=found.difference,
        noise=found.noise,
        mask=found.mask,
        scale=found.scale,
    )


def quality(field: Field, out: Path, shape: Shape) -> dict[str, float]:
    """Judge a difference by the truth; fluxes in per cent."""
    with np.load(out) as kept:
        difference, noise, mask, scale = (kept[name] for name in ("difference", "noise", "mask", "scale"))
    ratio = difference / noise
    bright = np.zeros(mask.shape, bool)
    for x, y, flux in field.stars:
        if flux > BRIGHT:
            bright[max(int(y) - 5, 0) : int(y) + 6, max(int(x) - 5, 0) : int(x) + 6] = True
    fluxes = []
    for x, y, flux in field.transients:
        box = slice(int(y) - 20, int(y) + 21), slice(int(x) - 20, int(x) + 21)
        here = np.array([[x - int(x) + 20, y - int(y) + 20, flux]])
        fluxes.append(float(aperture_fluxes(difference[box], here, shape)[0] / flux))
    return {
        "sd(difference/noise) off stars": float(ratio[field.quiet & ~mask].std()),
        "sd(difference/noise) on bright stars": float(ratio[bright & ~mask].std()),
        "bias of transients, %": 100 * (float(np.mean(fluxes)) - 1),
        "its error, %": 100 * float(np.std(fluxes) / np.sqrt(len(fluxes))),
        "scatter of transients, %": 100 * float(np.std(fluxes)),
        "error of the scale, %": 100 * (float(scale) / field.scale - 1),
        "masked, %": 100 * float(mask.mean()),
    }


def main() -> None:
    """Measure and print."""
    # before the forks
    import_module("stdpipe.subtraction")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--zogy", action="store_true", help="ZOGY, too")
    arguments = parser.parse_args()
    shape = Shape(3.2)
    field = make_field(
        Sky(shape, slope=0.05),
        Sky(Shape(2.4), level=50, gain=20, read_noise=2),
        size=arguments.size,
        stars=int(STARS_PER_PIXEL * arguments.size**2),
        transients=(arguments.size // 100) ** 2,
        transient_flux=TRANSIENT,
    )
    names = ["hotpants", "sfft", *(["zogy"] if arguments.zogy else [])]
    results = {}
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
        for engine in names:
            out = Path(name) / f"{engine}.npz"
            seconds, cpu, memory = in_child(partial(run, engine, field, out))
            measured = {"s": seconds, "s of processor": cpu, "MB above before": memory}
            results[engine] = measured | quality(field, out, shape)
    print(f"{arguments.size} x {arguments.size} pixels; hotpants is our own solver")
    print(f"{'':40s}" + "".join(f"{engine:>12s}" for engine in names))
    for key in results["hotpants"]:
        print(f"{key:40s}" + "".join(f"{results[engine][key]:12.3f}" for engine in names))
    ours, theirs = results["hotpants"], results["sfft"]
    for key in ("s", "s of processor", "MB above before"):
        print(f"sfft over ours, {key}: {theirs[key] / ours[key]:.1f}")


if __name__ == "__main__":
    main()
