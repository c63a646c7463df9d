"""Time and memory of `stack` by method.

    python bench/bench_stack.py [--size 4096] [--images 20]

Exposures of one field, dithered by fractions of pixels and slightly turned, so that each but the first is interpolated.
Runs in a forked child each, after imports; memory is the peak above that of before, the disk what the planes take.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from bench_photometry import in_child

from services.subtraction.stack import stack, warm
from shared.contracts.params import StackParams
from shared.worker.step import Resources, StepContext
from stdweb.sky.observe import EXPOSURE_S, GAIN, READ_NOISE_E, SATURATION_ADU, SKY_ADU, tan_wcs
from stdweb.sky.render import draw_stars

STARS_PER_MPIX = 1_500
METHODS = ("sum", "clipped_mean", "median")


def expose(folder: Path, size: int, count: int) -> list[str]:
    """Write the exposures; give their names."""
    rng = np.random.default_rng(1)
    number = int(STARS_PER_MPIX * size**2 / 1e6)
    first = tan_wcs(size, 1.0, 150.0, 20.0, rotation_deg=0.0, shift_pix=(0.0, 0.0))
    ra, dec = first.all_pix2world(*rng.uniform(0, size, (2, number)), 0)
    flux = 10 ** rng.uniform(2.5, 5.5, number)
    names = []
    for index in range(count):
        shift = (0.0, 0.0) if index == 0 else tuple(rng.uniform(-5, 5, 2))
        wcs = tan_wcs(size, 1.0, 150.0, 20.0, rotation_deg=0.01 * index, shift_pix=shift)
        light = np.full((size, size), SKY_ADU)
        draw_stars(light, *wcs.all_world2pix(ra, dec, 0), flux, 3.0)
        light += rng.standard_normal(light.shape, np.float32) * np.sqrt(light / GAIN + (READ_NOISE_E / GAIN) ** 2)
        header = wcs.to_header()
        header["GAIN"], header["EXPTIME"], header["SATURATE"] = GAIN, EXPOSURE_S, 0.95 * SATURATION_ADU
        header["FILTER"], header["DATE-OBS"] = "r", f"2026-11-02T21:{index:02d}:00"
        names.append(f"{index:02d}.fits")
        pixels = np.clip(np.round(light), 0, SATURATION_ADU).astype(np.uint16)
        fits.writeto(folder / "data" / names[-1], pixels, header, overwrite=True)
    return names


def run(folder: Path, names: list[str], method: str) -> None:
    """Run the step."""
    began = time.perf_counter()

    def say(line: str) -> None:
        if line.startswith("Done"):
            print(f"    {time.perf_counter() - began:.1f} s within the step")

    def show(fraction: float, phase: str) -> None:
        if phase == "combining" and fraction <= 0.8:
            print(f"    {time.perf_counter() - began:.1f} s until all are on the grid", flush=True)

    config = {"stack_filenames": names, "stack_method": method}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ctx = StepContext(
            task_id=1,
            params=StackParams.of(config),
            config=config,
            work=Path(work),
            resources=Resources(cache_dir=folder / "cache", data_dir=folder),
            find=lambda _: None,
            say=say,
            show=show,
        )
        stack(ctx)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="stdweb-bench-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        names = expose(folder, arguments.size, arguments.images)
        image_mb = 4 * arguments.size**2 / 2**20
        print(f"{arguments.images} images of {arguments.size} x {arguments.size}, {image_mb:.0f} MB each as float32")
        for method in METHODS:
            seconds, work, memory = in_child(partial(run, folder, names, method))
            print(
                f"  {method:13} {seconds:6.1f} s, {work:6.1f} s of processor, "
                f"{memory:.0f} MB = {memory / image_mb:.1f} images; {image_mb * arguments.images:.0f} MB of disk"
            )


if __name__ == "__main__":
    main()
