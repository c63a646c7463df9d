"""Sources that were not there before, in the field and on galaxies."""

from typing import Final

import numpy as np
from astropy.table import Table
from scipy.spatial import cKDTree

BRIGHTEST_MAG: Final = 16.0
FAINTEST_MAG: Final = 21.0
ON_GALAXIES: Final = 0.35  # share of all
NO_HOST: Final = -1
_EDGE_PIX: Final = 60.0
_ALONE_PIX: Final = 12.0
_DISTURBING_MAG: Final = 21.5
_HOST_LIMIT_MAG: Final = 20.0
_OFFSETS: Final = (0.3, 1.5)  # from the host's centre, half-light radii
_MAGNITUDES: Final = {*"griz", *"UBVRI", *(f"{band}_sloan" for band in "ugriz")}
_TRIES: Final = 100_000


def new_sources(truth: Table, size: int, pixel_scale_arcsec: float, count: int, rng: np.random.Generator) -> Table:
    """Make transients as rows like those of all sources: `kind` is `transient`, `host` the `id` of a galaxy or -1.

    Parameters
    ----------
    truth
        What was there before, with `x y m_nat` on the image.
    size, pixel_scale_arcsec
        Of the image.
    count
        How many; about a third of them on galaxies. Magnitudes are even between 16 and 21, in every band the same.
    rng
        Draws magnitudes and places.

    Raises
    ------
    ValueError
        When there is no room for so many.
    """
    stars = truth[(truth["re"] == 0) & (truth["m_nat"] < _DISTURBING_MAG)]
    galaxies = _inside(truth[(truth["re"] > 0) & (truth["m_nat"] < _HOST_LIMIT_MAG)], size)
    galaxies = galaxies[rng.permutation(len(galaxies))]
    bright = truth[truth["m_nat"] < _DISTURBING_MAG]
    places: list[tuple[float, float, int]] = []
    for galaxy in galaxies:
        if len(places) >= round(ON_GALAXIES * count):
            break
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(*_OFFSETS) * galaxy["re"] / pixel_scale_arcsec
        x, y = float(galaxy["x"] + away * np.cos(angle)), float(galaxy["y"] + away * np.sin(angle))
        if _alone(x, y, stars):
            places.append((x, y, int(galaxy["id"])))
    for _ in range(_TRIES):
        if len(places) == count:
            break
        x, y = rng.uniform(_EDGE_PIX, size - _EDGE_PIX, 2)
        if _alone(x, y, bright) and all(np.hypot(x - one[0], y - one[1]) > _ALONE_PIX for one in places):
            places.append((float(x), float(y), NO_HOST))
    if len(places) < count:
        raise ValueError(f"there is no room for {count} transients")
    found = Table(truth[np.zeros(count, int)], copy=True)
    mags = rng.permutation(np.linspace(BRIGHTEST_MAG, FAINTEST_MAG, count))
    for name in found.colnames:
        if name in _MAGNITUDES:
            found[name] = mags
    found["x"], found["y"] = [place[0] for place in places], [place[1] for place in places]
    found["host"] = [place[2] for place in places]
    found["re"], found["q"], found["pa"] = 0.0, 1.0, 0.0
    found["kind"], found["id"] = "transient", np.max(truth["id"]) + 1 + np.arange(count)
    return found


def _inside(sources: Table, size: int) -> Table:
    return sources[np.all([(sources[axis] > _EDGE_PIX) & (sources[axis] < size - _EDGE_PIX) for axis in "xy"], axis=0)]


def _alone(x: float, y: float, others: Table) -> bool:
    return not cKDTree(np.c_[others["x"], others["y"]]).query_ball_point((x, y), _ALONE_PIX)
