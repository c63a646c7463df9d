"""Which simulated transients a search found, how bright they were found to be, and pictures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MATCH_ARCSEC: Final = 2.0
EDGES_MAG: Final = (16.0, 18.0, 19.0, 20.0, 21.0)
PLACES: Final = ("in the field", "on a galaxy")
HALF_PIX: Final = 20
_CLEAR_MAG: Final = 0.15
"""Error of the magnitude of what the eye sees, too."""
_FAINT_SIGMA, _BRIGHT_SIGMA = -3.0, 30.0


@dataclass(frozen=True)
class Score:
    """What a search found.

    Parameters
    ----------
    mag, mag_err
        Of each simulated transient as it was measured, NaN for those that were not found.
    row
        In the table of candidates, -1 for those that were not found.
    false
        Candidates that are none of them.
    """

    mag: Floats
    mag_err: Floats
    row: NDArray[np.intp]
    false: int

    @property
    def found(self) -> NDArray[np.bool_]:
        """Tell which were found."""
        return self.row >= 0


def score(new: Table, candidates: Table) -> Score:
    """Compare candidates (`ra dec mag_calib mag_calib_err`) with simulated transients (`ra dec`)."""
    mag, error, row = np.full(len(new), np.nan), np.full(len(new), np.nan), np.full(len(new), -1)
    if not len(candidates):
        return Score(mag, error, row, 0)
    theirs = SkyCoord(*(np.asarray(candidates[name], float) for name in ("ra", "dec")), unit="deg")
    ours = SkyCoord(new["ra"], new["dec"], unit="deg")
    nearest, distance, _ = ours.match_to_catalog_sky(theirs)
    found = distance < MATCH_ARCSEC * u.arcsec
    row[found] = nearest[found]
    for values, name in ((mag, "mag_calib"), (error, "mag_calib_err")):
        values[found] = np.ma.filled(np.ma.asarray(candidates[name], float), np.nan)[nearest[found]]
    return Score(mag, error, row, len(candidates) - len(set(nearest[found])))


def summary(new: Table, scores: Sequence[Score]) -> list[list[str]]:
    """Make a table of text: magnitude and place, how many there are, and for each search found and measured - true."""
    lines = []
    for place, hosted in zip(PLACES, (False, True), strict=True):
        for low, high in pairwise(EDGES_MAG):
            last = high == EDGES_MAG[-1]
            chosen = (new["m_nat"] >= low) & ((new["m_nat"] < high) | last) & ((new["host"] >= 0) == hosted)
            line = [f"{low:.0f} – {high:.0f} {place}", f"{int(chosen.sum())}"]
            for one in scores:
                line += [f"{int((one.found & chosen).sum())}", _offset(one.mag[chosen] - new["m_nat"][chosen])]
            lines.append(line)
    return lines


def _offset(difference: Floats) -> str:
    known = np.asarray(difference)[np.isfinite(difference)]
    return f"{np.median(known):+.3f}" if len(known) else ""


def some(new: Table, one: Score, count: int) -> list[int]:
    """Choose from the brightest to the faintest that are clear, half of them on galaxies if there are so many."""
    clear = one.found & (one.mag_err < _CLEAR_MAG)
    order = [int(number) for number in np.argsort(new["m_nat"], kind="stable") if clear[number]]
    hosted = _spread([number for number in order if new["host"][number] >= 0], count // 2)
    return _spread([number for number in order if new["host"][number] < 0], count - len(hosted)) + hosted


def _spread(numbers: list[int], count: int) -> list[int]:
    places = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int))
    return [numbers[place] for place in places]


def draw(
    path: Path, images: Mapping[str, Floats], places: Sequence[tuple[float, float]], titles: Sequence[str]
) -> None:
    """Write a picture with a row per image and a column per place, all in units of the image's own noise.

    Parameters
    ----------
    path
        PNG file.
    images
        Of one grid, by their titles.
    places
        0-based pixels, at least `HALF_PIX` from the edges.
    titles
        One a place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(places), 2.0 * len(images) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), len(places), squeeze=False)
    for (name, image), row in zip(images.items(), axes, strict=True):
        for (x, y), axis in zip(places, row, strict=True):
            part = image[round(y) - HALF_PIX : round(y) + HALF_PIX + 1, round(x) - HALF_PIX : round(x) + HALF_PIX + 1]
            level = np.nanmedian(part)
            noise = 1.4826 * np.nanmedian(np.abs(part - level)) or 1.0
            axis.imshow(
                np.arcsinh((part - level) / noise / 3),
                vmin=np.arcsinh(_FAINT_SIGMA / 3),
                vmax=np.arcsinh(_BRIGHT_SIGMA / 3),
                origin="lower",
                cmap="gray_r",
                interpolation="nearest",
            )
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name)
    for title, axis in zip(titles, axes[0], strict=True):
        axis.set_title(title, fontsize="small")
    figure.savefig(path, dpi=100)
