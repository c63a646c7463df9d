"""Pictures of a simulated field, its differences, and what was found there, for `docs/subtraction.md`.

python bench/quality_pictures.py [--case standard] [--seed 1]
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure
from quality_difference_fields import CASES, Scene, simulate
from quality_difference_measure import ANNULUS, FWHM_OF_PHOTOMETRY
from threadpoolctl import threadpool_limits

from shared.science.difference import ENGINES, Difference, Options, subtract
from shared.science.difference_search import Options as Search
from shared.science.difference_search import find_candidates

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"
SIZE = 640
SHOWN = slice(120, 520)
HALF_PIX = 15
ROWS = {"transient": "transient", "transient_g": "on a galaxy", "variable": "variable", "asteroid": "asteroid"}
JPEG = {"quality": 85}


def candidates(scene: Scene, found: Difference) -> Table:
    """Search as the step does."""
    fwhm = FWHM_OF_PHOTOMETRY * scene.case.image.shape.fwhm_pix
    search = Search(fwhm, (ANNULUS[0] * fwhm, ANNULUS[1] * fwhm))
    return find_candidates(found, scene.pair.image, scene.pair.mask, search, lambda *_: None).table


def panel(axis: object, plane: np.ndarray, low: float, high: float, title: str = "") -> None:
    """Draw one plane without ticks."""
    axis.imshow(plane, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)


def fields(scene: Scene, differences: dict[str, Difference], path: Path) -> None:
    """Draw image, template, difference and difference over noise of each engine, with circles around candidates."""
    figure = Figure(figsize=(10, 7.7), layout="constrained")
    part = (SHOWN, SHOWN)
    for axes, (engine, found) in zip(figure.subplots(len(differences), 4), differences.items(), strict=True):
        noise = float(np.median(found.noise[~found.mask]))
        sky = float(np.median(scene.pair.image))
        panel(axes[0], scene.pair.image[part], sky - 3 * noise, sky + 15 * noise, f"{engine}: image")
        template = scene.pair.template[part] * found.scale
        middle = float(np.nanmedian(template))
        panel(axes[1], template, middle - 3 * noise, middle + 15 * noise, "template, on the image's grid")
        hidden = np.where(found.mask, np.nan, found.difference)[part]
        panel(axes[2], hidden, -5 * noise, 10 * noise, "difference")
        panel(axes[3], np.where(found.mask, np.nan, found.significance)[part], -5, 10, "difference / noise, candidates")
        table = candidates(scene, found)
        x, y = (np.asarray(table[name], float) - SHOWN.start for name in ("x", "y"))
        inside = (x > 0) & (y > 0) & (x < SHOWN.stop - SHOWN.start) & (y < SHOWN.stop - SHOWN.start)
        axes[3].scatter(x[inside], y[inside], s=50, facecolors="none", edgecolors="tab:orange", lw=0.8)
        for axis in axes[2:]:
            axis.set_facecolor("tab:blue")
    figure.savefig(path, dpi=90, pil_kwargs=JPEG)


def cutouts(scene: Scene, differences: dict[str, Difference], path: Path) -> None:
    """Draw one new star in the field, on a galaxy, a variable and an asteroid, as each engine sees them."""
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    truth = scene.truth
    middle = SIZE / 2
    grid = figure.subplots(len(ROWS), 2 + len(differences))
    for axes, (kind, name) in zip(grid, ROWS.items(), strict=True):
        some = truth[(truth["kind"] == kind) & (truth["change"] > 0)]
        some = some[np.hypot(some["x"] - middle, some["y"] - middle) < middle - 2 * HALF_PIX]
        # neither the brightest nor the faintest
        one = some[np.argsort(some["change"])[len(some) // 2]]
        row, column = round(one["y"]), round(one["x"])
        part = slice(row - HALF_PIX, row + HALF_PIX + 1), slice(column - HALF_PIX, column + HALF_PIX + 1)
        first = next(iter(differences.values()))
        noise = float(np.median(first.noise[part]))
        sky = float(np.median(scene.pair.image))
        panel(axes[0], scene.pair.image[part], sky - 3 * noise, sky + 15 * noise, f"{name}: image")
        panel(axes[1], first.convolved[part], -3 * noise, 15 * noise, "template, as wide")
        for axis, (engine, found) in zip(axes[2:], differences.items(), strict=True):
            panel(axis, np.where(found.mask, np.nan, found.difference)[part], -4 * noise, 12 * noise, engine)
            axis.set_facecolor("tab:blue")
            table = candidates(scene, found)
            away = np.hypot(np.asarray(table["x"]) - one["x"], np.asarray(table["y"]) - one["y"])
            seen = f"S/N {table['significance'][np.argmin(away)]:.0f}" if away.min() < HALF_PIX / 3 else "no candidate"
            axis.set_xlabel(seen, fontsize=8)
    figure.savefig(path, dpi=80, pil_kwargs=JPEG)


def main() -> None:
    """Simulate, subtract, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="standard", choices=[case.name for case in CASES])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    threadpool_limits(1)
    scene = simulate(next(case for case in CASES if case.name == arguments.case), SIZE, arguments.seed)
    differences = {engine: subtract(engine, scene.pair, Options(threads=1)) for engine in ENGINES}
    fields(scene, differences, IMAGES / "difference-field.jpg")
    cutouts(scene, differences, IMAGES / "difference-cutouts.jpg")


if __name__ == "__main__":
    main()
