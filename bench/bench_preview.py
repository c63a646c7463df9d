"""Time of previews against `stdpipe.plots.imshow` on a matplotlib figure, in one run.

    python bench/bench_preview.py [SIDE …]

SIDE are those of the simulated images, pixels; by default 1024 2048 4096 8192. Both ways read the file and give the
bytes of a JPEG, in turns; the shortest of some runs counts. The files are in the cache of the system.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib.figure import Figure
from stdpipe import plots

from services.preview.core import render_image
from services.preview.files import Opened, Volume
from services.preview.renderer import warm
from shared.contracts.preview import PreviewOptions

WIDTH = 800
ROUNDS = 5
SIDES = (1024, 2048, 4096, 8192)
WANTED = {1024: (7, 3), 2048: (15, 5)}
WANTED_ABOVE = (25, 5)
WANTED_AGAIN = 20
ASKED = PreviewOptions(width=WIDTH)
ASKED_AGAIN = PreviewOptions(width=WIDTH, cmap="viridis", qmin=1, qmax=99)


def picture(side: int) -> np.ndarray:
    """Simulate a sky with stars."""
    random = np.random.default_rng(1)
    image = random.normal(1000, 12, (side, side)).astype(np.float32)
    y, x = np.mgrid[-7:8, -7:8]
    psf = np.exp(-(x**2 + y**2) / 4.5).astype(np.float32)
    for row, column in random.integers(8, side - 8, (side * side // 4000, 2)):
        image[row - 7 : row + 8, column - 7 : column + 8] += psf * np.float32(10 ** random.uniform(1.5, 4.5))
    return image


def plain(path: Path) -> bytes:
    """Draw as the old system does."""
    data = fits.getdata(path, -1)
    figure = Figure(facecolor="white", dpi=72, figsize=(WIDTH / 72, WIDTH * data.shape[0] / data.shape[1] / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    plots.imshow(data, ax=axes, show_axis=False, show_colorbar=False, origin="lower", cmap="Blues_r", qq=[0.5, 99.5])
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 80})
    return file.getvalue()


def ours(volume: Volume, path: Path, options: PreviewOptions) -> bytes:
    """Draw as the service does, but for the cache of pictures."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return render_image(volume.plane(Opened(fd, os.fstat(fd)), options.ext), options)
    finally:
        os.close(fd)


def forget(volume: Volume) -> None:
    """Remove the plain copies of compressed images."""
    for copy in volume.cache.folder.iterdir():
        copy.unlink()


def compare(volume: Volume, path: Path) -> list[tuple[float, float]]:
    """Give the shortest times, of the clock and of the processor, of the plain way, ours, and ours again, seconds."""
    times: list[list[tuple[float, float]]] = [[], [], []]
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: plain(path),
        lambda: ours(volume, path, ASKED),
        lambda: ours(volume, path, ASKED_AGAIN),
    )
    for _ in range(ROUNDS):
        forget(volume)
        for way, taken in zip(ways, times, strict=True):
            began = time.perf_counter(), time.process_time()
            way()
            taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return [(min(clock for clock, _ in taken), min(used for _, used in taken)) for taken in times]


def report(volume: Volume, folder: Path, side: int) -> None:
    """Print a row for each kind of file."""
    image = picture(side)
    path = folder / "image.fits"
    float_wanted, packed_wanted = WANTED.get(side, WANTED_ABOVE)
    kinds = {
        "float32": (fits.PrimaryHDU(image), float_wanted, None),
        "RICE, float32": (fits.CompImageHDU(image, compression_type="RICE_1"), packed_wanted, WANTED_AGAIN),
        "RICE, int16": (
            fits.CompImageHDU(np.clip(image, 0, 32767).astype(np.int16), compression_type="RICE_1"),
            packed_wanted,
            WANTED_AGAIN,
        ),
    }
    for kind, (hdu, wanted, wanted_again) in kinds.items():
        hdus = [hdu] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU(), hdu]
        fits.HDUList(hdus).writeto(path, overwrite=True)
        plainly, first, again = compare(volume, path)
        cells = [f"{side}² {kind}", f"{1e3 * plainly[0]:.0f}", f"{1e3 * first[0]:.0f}", ratios(plainly, first, wanted)]
        if wanted_again:
            cells += [f"{1e3 * again[0]:.0f}", ratios(plainly, again, wanted_again)]
        print("| " + " | ".join(cells + [""] * (6 - len(cells))) + " |", flush=True)


def ratios(slow: tuple[float, float], fast: tuple[float, float], wanted: int) -> str:
    """Write the ratios of both kinds of time."""
    return f"{slow[0] / fast[0]:.1f}, {slow[1] / fast[1]:.1f} ({wanted})"


def main() -> None:
    """Compare, and print a table."""
    sides = [int(side) for side in sys.argv[1:]] or SIDES
    warm()
    # a busy machine changes the time of the clock, and less that of the processor
    print(f"| width {WIDTH} | plain, ms | ours, ms | ratios (wanted) | other options, ms | ratios (wanted) |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        volume = Volume(Path(name) / "volume")
        for side in sides:
            report(volume, Path(name), side)


if __name__ == "__main__":
    main()
